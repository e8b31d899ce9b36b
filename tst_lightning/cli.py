"""The one entry point, ``tst-lightning``: Lightning's own commands and ours, side by side.

Nothing heavy is imported before a command is known, so ``tst-lightning --help`` answers at once.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from tst_lightning.errors import UserError
from tst_lightning.parsing import as_user_error

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
}

BARE_PARAMETER = ("inspect", "mutual_information", "ngram", "report", "verify")
"""Functions whose required parameter is given without a flag."""

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
        print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


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
        from tst_lightning.lightning_cli import run

        run([command, *arguments])
        return 0
    if command in COMMANDS:
        return _run_function(_load(command), arguments)
    names = ", ".join([*LIGHTNING_COMMANDS, *COMMANDS])
    raise UserError(f"unknown command '{command}': choose from {names} (see tst-lightning --help)")


def _load(command: str) -> Callable[..., int | None]:
    module, _ = COMMANDS[command]
    return getattr(importlib.import_module(module), command.replace("-", "_"))


def _run_function(function: Callable[..., int | None], arguments: list[str]) -> int:
    """Call a function with its parameters as flags; its docstring is the help. Some take their folder bare."""
    from jsonargparse import auto_cli

    options = {
        "as_positional": function.__name__ in BARE_PARAMETER,
        "prog": f"tst-lightning {function.__name__.replace('_', '-')}",
    }
    with as_user_error():
        return auto_cli(function, args=_joined(arguments, "--only"), exit_on_error=False, **options) or 0


def _joined(arguments: list[str], option: str) -> list[str]:
    """``--only A B`` as ``--only A,B``: the parser gives an option one word."""
    if option not in arguments:
        return arguments
    start = arguments.index(option) + 1
    end = next((place for place in range(start, len(arguments)) if arguments[place].startswith("-")), len(arguments))
    return [*arguments[:start], ",".join(arguments[start:end]), *arguments[end:]]


if __name__ == "__main__":
    sys.exit(main())
