"""The one entry point, ``tst-lightning``: Lightning's own commands and ours, side by side.

Nothing heavy is imported before a command is known, so ``tst-lightning --help`` answers at once.
"""

import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from tst_lightning.errors import UserError
from tst_lightning.parsing.errors import as_user_error, require_config_files, require_values
from tst_lightning.said_once import rank_and_processes, say_once

LIGHTNING_COMMANDS = {
    "fit": "train a model; with configs/method/tst.yaml by Token-Superposition Training",
    "validate": "next-token loss of a checkpoint on the validation split",
    "test": "the same, by the name that Lightning users look for",
}
COMMANDS = {
    "prepare": ("tst_lightning.data.prepare", "text -> tokenizer -> token shards and a manifest"),
    "inspect": ("tst_lightning.data.inspection", "what a prepared corpus holds; rows of it with their bags"),
    "verify": ("tst_lightning.data.preparing.verify", "check every file of a prepared corpus against its manifest"),
    "ngram": ("tst_lightning.data.ngram.command", "count n-grams of a prepared corpus, as targets of training"),
    "mutual-information": (
        "tst_lightning.data.mutual_information.command",
        "what tokens tell about later ones, by distance; weights of bags from a fit",
    ),
    "evaluate": ("tst_lightning.evaluation.command", "lm-eval tasks on a checkpoint or a model folder"),
    "export": (
        "tst_lightning.modeling.export",
        "a checkpoint as a Hugging Face folder: weights, config, tokenizer",
    ),
    "compare": (
        "tst_lightning.comparison.command",
        "arms x seeds of training runs, restartable, then the report",
    ),
    "report": ("tst_lightning.comparison.command", "tables, figures and a page from finished runs"),
    "plan": (
        "tst_lightning.plan.command",
        "what a fit will cost and need: FLOPs, tokens, memory, time; s and r to begin with",
    ),
}

BARE_PARAMETER = ("inspect", "mutual_information", "ngram", "report", "verify")
"""Functions whose required parameter is given without a flag."""

FIT_ARGUMENTS = ("plan",)
"""Functions whose first parameter is ``config``, the arguments of a ``fit``; they are given beside their own."""

HELP = """\
usage: tst-lightning COMMAND [--help] [--config FILE ...] [--KEY VALUE ...]

Find out whether Token-Superposition Training makes pre-training cheaper, and train with it.

commands:
{commands}

Every command takes --config (several are merged in order) and --help.

  tst-lightning prepare --config configs/prepare/demo.yaml
  tst-lightning fit --config configs/model/llama_1m.yaml --config configs/data/demo.yaml \\
                    --config configs/trainer/cpu.yaml --config configs/method/tst.yaml
  tst-lightning compare --config configs/experiments/demo.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A ``UserError`` becomes one line and status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # LightningCLI 2.6 calls what jsonargparse 4 deprecates; users can do nothing about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        from tst_lightning import __version__

        print(f"tst-lightning {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except UserError as error:
        say_once(_message(error), "error: ")
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if not _is_of_another_process(error):
            raise
        return 1


def _is_of_another_process(error: RuntimeError) -> bool:
    """Whether ``error`` only says that another process of the run has ended; it is said, then, if not yet here."""
    if getattr(error, "is_said", False):
        return True
    if rank_and_processes()[1] == 1:
        return False
    from tst_lightning.run.lost_processes import is_broken_connection

    if is_broken_connection(error):
        say_once("another process of this run has ended: its message says why")
    return is_broken_connection(error)


def _message(error: UserError) -> str:
    """What was raised; torch wraps an error of a DataLoader's worker in the text of its traceback."""
    text = str(error)
    return text.rpartition("UserError: ")[2].strip() if text.startswith("Caught UserError in ") else text


def help_text() -> str:
    """What ``tst-lightning --help`` prints."""
    texts = LIGHTNING_COMMANDS | {name: text for name, (_, text) in COMMANDS.items()}
    return HELP.format(commands="\n".join(f"  {name:<20}{text}" for name, text in texts.items()))


def _dispatch(command: str, arguments: list[str]) -> int:
    if command in LIGHTNING_COMMANDS:
        from tst_lightning.run.lightning_cli import run

        run([command, *arguments])
        return 0
    if command in COMMANDS:
        return _run_function(_load(command), arguments)
    names = [*LIGHTNING_COMMANDS, *COMMANDS]
    similar = "".join(f" (did you mean {name}?)" for name in difflib.get_close_matches(command, names, 1))
    raise UserError(f"unknown command '{command}'{similar}: choose from {', '.join(names)} (see tst-lightning --help)")


def _load(command: str) -> Callable[..., int | None]:
    module, _ = COMMANDS[command]
    return getattr(importlib.import_module(module), command.replace("-", "_"))


def _run_function(function: Callable[..., int | None], arguments: list[str]) -> int:
    """Call a function with its parameters as flags; its docstring is the help. Some take their folder bare."""
    from jsonargparse import auto_cli

    if function.__name__ in FIT_ARGUMENTS:
        return _run_with_fit_arguments(function, arguments)
    options = {
        "as_positional": function.__name__ in BARE_PARAMETER,
        "allow_abbrev": False,
        "prog": f"tst-lightning {function.__name__.replace('_', '-')}",
    }

    @functools.wraps(function)
    def checked(**values: object) -> int | None:
        require_values(function, values)
        return function(**values)

    require_config_files(arguments)
    with as_user_error(list(inspect.signature(function).parameters)):
        return auto_cli(checked, args=_joined(arguments, "--only"), exit_on_error=False, **options) or 0


def _run_with_fit_arguments(function: Callable[..., int | None], arguments: list[str]) -> int:
    """Call a function with its own parameters, and with all other arguments as they are: a config's."""
    from inspect import Parameter, getdoc, signature

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"tst-lightning {function.__name__}",
        usage="%(prog)s --config FILE ... [--KEY VALUE ...] [options]",
        description=getdoc(function).split("\n\nArgs:")[0],
        exit_on_error=False,
    )
    parser.add_function_arguments(function, as_group=False, skip={"config"})
    options = [one for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY]
    named = [one.name for one in options]
    arguments = _switched(arguments, {f"--{one.name}" for one in options if one.annotation is bool})
    own, rest = _split(arguments, {f"--{name}" for name in named} | {"-h", "--help"})
    with as_user_error():
        values = parser.parse_args(own).as_dict()
        return function(rest, **{name: values[name] for name in named}) or 0


def _switched(arguments: list[str], switches: set[str]) -> list[str]:
    """``--check`` as ``--check=true``: the parser gives an option one word."""
    following = [*arguments[1:], ""]
    return [
        f"{word}=true" if word in switches and after not in ("true", "false") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def _split(arguments: list[str], options: set[str]) -> tuple[list[str], list[str]]:
    """Arguments that are or follow one of ``options``, and the others."""
    chosen: list[str] = []
    others: list[str] = []
    place = 0
    while place < len(arguments):
        word = arguments[place]
        is_chosen = word.partition("=")[0] in options
        takes_next = is_chosen and "=" not in word and word not in ("-h", "--help")
        (chosen if is_chosen else others).extend(arguments[place : place + 1 + takes_next])
        place += 1 + takes_next
    return chosen, others


def _joined(arguments: list[str], option: str) -> list[str]:
    """``--only A B`` as ``--only A,B``: the parser gives an option one word."""
    if option not in arguments:
        return arguments
    start = arguments.index(option) + 1
    end = next((place for place in range(start, len(arguments)) if arguments[place].startswith("-")), len(arguments))
    return [*arguments[:start], ",".join(arguments[start:end]), *arguments[end:]]


if __name__ == "__main__":
    sys.exit(main())
