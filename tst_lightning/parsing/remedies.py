"""What to give instead of a value that does not parse."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_NOT_OFFERED = re.compile("transformer-engine")
"""Lightning's precisions that need another package and a model made of its layers."""
A_CLASS = "the import path of a "
"""Before the name of a class, in what is wanted."""
_FEW = 12
"""Names that are listed as they are; of more the similar one is."""
_LARGEST_INTEGER = 1e15
"""In what is written as a number with a decimal point: above it, the integer that was meant is not known."""


def refused_value(value: str | None, wanted: Sequence[str], choices: Sequence[str]) -> str:
    """``give an integer: 1000000``, ``choose one of ... or give ...``; empty where nothing is wanted.

    Args:
        value: as the parser repeats it.
        wanted: kinds of values, in words.
        choices: values.
    """
    choices = [choice for choice in choices if not _NOT_OFFERED.match(choice)]
    parts = [f"choose one of {', '.join(choices)}{_meant(value or '', choices, 0.7)}"] if choices else []
    if "a number" in wanted:
        wanted = [one for one in wanted if one != "an integer"]
    if classes := [one.removeprefix(A_CLASS) for one in wanted if one.startswith(A_CLASS)]:
        wanted = [*(one for one in wanted if not one.startswith(A_CLASS)), f"{A_CLASS}{_or(classes)}"]
    if wanted:
        parts.append(f"give {_or(wanted)}{_integer_meant(value, wanted)}")
    return ", or ".join(parts)


def refused_by_class(reason: str, name: str, list_key: str, is_implied: bool) -> str:
    """What a class, or the lack of it, is the reason of.

    Args:
        reason: in the parser's words.
        name: import path of the class.
        list_key: option that is a list of such objects, if it was given as ``--LIST_KEY.OPTION``.
        is_implied: the class was not given: it is that of the type.
    """
    if match := re.fullmatch(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+).*", reason):
        option = match[1] or match[2]
        meant = _meant(option, _options(name))
        said = f"it has no option '{option}'{meant}"
        if list_key and not meant:
            said += f"; --{list_key}.OPTION is one of the last in the list, so set another's in a config file"
        elif is_implied and not meant:
            said += "; give the class_path of the one that has it"
        return said
    if match := re.fullmatch(r"the following arguments are required: (.+)", reason):
        return f"{match[1]} has no default: give it, under init_args in a config file"
    return refused_otherwise(reason)


def refused_otherwise(reason: str) -> str:
    """A name or a path that is not there, with what there is instead; any other reason as it is."""
    if match := re.fullmatch(r"module '?([\w.]+?)'? has no attribute '?(\w+)'?", reason):
        return f"there is no '{match[2]}' in {match[1]}{_meant_in_module(match[2], match[1])}"
    if match := re.fullmatch(r"argument (\S+): expected one argument", reason):
        return f"{match[1]}: give a value after it"
    match = re.fullmatch(r"(?:Path is not a file|File does not exist): '(.+)'", reason)
    if match is None:
        return reason
    if not Path(match[1]).is_dir():
        return f"{reason}: give the path of a file that is there"
    files = sorted(path.name for path in Path(match[1]).glob("*.y*ml"))
    listed = f" of its files ({', '.join(files[:_FEW])}{', ...' if len(files) > _FEW else ''})" if files else " file"
    return f"'{match[1]}' is a folder: give one{listed}"


def _integer_meant(value: str | None, wanted: Sequence[str]) -> str:
    """For 1e6, which is a number and not an integer to the parser, how it is written as one."""
    if "an integer" not in wanted or "a number" in wanted or value is None:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f", written {number:.0f}" if number.is_integer() and abs(number) < _LARGEST_INTEGER else ""


def _options(name: str) -> list[str]:
    module, _, attribute = name.rpartition(".")
    try:
        return list(inspect.signature(getattr(sys.modules[module], attribute)).parameters)
    except (KeyError, AttributeError, ValueError, TypeError):
        return []


def _meant_in_module(name: str, module: str) -> str:
    there = [one for one in dir(sys.modules.get(module)) if one[0].isupper()] if module in sys.modules else []
    return _meant(name, there) or (f"; there are {', '.join(there)}" if 0 < len(there) <= _FEW else "")


def _meant(word: str, names: Iterable[str], likeness: float = 0.8) -> str:
    similar = difflib.get_close_matches(word, list(names), 1, likeness)
    return f" (did you mean {similar[0]}?)" if similar and similar[0] != word else ""


def _or(words: Sequence[str]) -> str:
    joint = ", or " if any(" or " in word for word in words) else " or "
    return joint.join(filter(None, (", ".join(words[:-1]), words[-1])))
