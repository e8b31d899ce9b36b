"""Turns what the argument parser complains about into the project's own one-line errors."""

import contextlib
import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.parsing.messages import in_one_line

__all__ = ["as_user_error", "in_one_line"]


@contextlib.contextmanager
def as_user_error(names: Sequence[str] = ()) -> Iterator[None]:
    """Raise a ``UserError`` for what does not parse (``exit_on_error=False``) or does not suit the Trainer.

    A ``UserError`` from a class that the parser was building comes out as it was raised, without the parser's
    words around it.

    Args:
        names: of the options that there are, one of which may have been meant by an unknown one.
    """
    from argparse import ArgumentError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        own = raised_before(error)
        if own is not None:
            raise own from error
        if not isinstance(error, ArgumentError) and type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(with_suggestion(in_one_line(str(error)), names)) from error


def require_config_files(arguments: Sequence[str]) -> None:
    """Refuse files given as ``--config`` that are no YAML mapping: the parser would not say which file it means.

    Files that do not exist are left to the parser.

    Raises:
        UserError: naming the file, the place in it and what is wrong there.
    """
    for path in config_paths(arguments):
        if Path(path).is_file():
            _require_mapping(path)


def config_paths(arguments: Sequence[str]) -> Iterator[str]:
    """The files given as ``--config``, in order."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument in ("--config", "-c"):
            yield following
        elif argument.startswith("--config="):
            yield argument.removeprefix("--config=")


def _require_mapping(path: str) -> None:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        _require_single_keys(yaml.compose(text, yaml.SafeLoader), path, set())
        values = yaml.safe_load(text)
        json.dumps(values, default=str, skipkeys=True)
    except UnicodeDecodeError as error:
        raise UserError(f"config file '{path}' is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        if "'\\t'" in reason:
            reason += " (YAML is indented with spaces, not with tabs)"
        raise UserError(f"config file '{path}' is not YAML{place}: {reason}") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # of json: an anchor that holds itself
        raise UserError(f"config file '{path}' holds itself, or is too deep: {error}") from error
    except OSError as error:
        raise UserError(f"config file '{path}' cannot be read ({error.strerror or error})") from error
    if values is None:
        raise UserError(f"config file '{path}' holds nothing: write `key: value` into it, or leave it out")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else f"the value {str(values)[:40]!r}"
        raise UserError(f"config file '{path}' holds {kind}: write `key: value`, as the files in configs/ do")


def _require_single_keys(node: Any, path: str, seen: set[int]) -> None:
    """Refuse a mapping with a key twice, of which YAML would take the last without a word."""
    if node is None or isinstance(node.value, str) or id(node) in seen:
        return
    seen.add(id(node))
    keys = set()
    for entry in node.value:
        parts = entry if isinstance(entry, tuple) else (entry,)
        if len(parts) == 2 and isinstance(parts[0].value, str):
            key = parts[0].value
            if key in keys and key != "<<":
                line = parts[0].start_mark.line + 1
                raise UserError(f"config file '{path}' has '{key}' a second time in line {line}: keep one of the two")
            keys.add(key)
        for part in parts:
            _require_single_keys(part, path, seen)


def require_values(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Refuse null for parameters that need a value, and in the dataclasses among them: the parser lets it pass.

    Raises:
        UserError: naming all of them.
    """
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    names = [name for name, value in values.items() if value is None and defaults[name] is not None]
    names += [f"{name}.{inner}" for name, value in values.items() for inner in _null_fields(value)]
    if names:
        raise UserError(f"{', '.join(names)}: null is no value here; give one, or leave it out for the default")


def _null_fields(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{key}.{name}" for key, inner in value.items() for name in _null_fields(inner))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if inner is None and field.default is not None:
                yield field.name
            yield from (f"{field.name}.{name}" for name in _null_fields(inner))


def with_suggestion(text: str, names: Sequence[str]) -> str:
    """A parser's message about an unknown option, with the name that was probably meant."""
    import difflib

    unknown = re.search(r"unrecognized arguments: --([\w.-]+)|does not accept option '([\w.-]+)'", text)
    if unknown is None:
        return text
    similar = difflib.get_close_matches((unknown[1] or unknown[2]).replace("-", "_"), names, 1, 0.75)
    return f"{text}: {f'did you mean --{similar[0]}? ' if similar else ''}--help lists the options"


def raised_before(error: BaseException) -> UserError | None:
    """The ``UserError`` that ``error`` was raised from or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, UserError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None
