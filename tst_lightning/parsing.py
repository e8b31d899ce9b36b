"""Turns what the argument parser complains about into the project's own one-line errors."""

import contextlib
import re
from collections.abc import Iterator

from tst_lightning.errors import UserError


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Raise a ``UserError`` for what does not parse (``exit_on_error=False``) or does not suit the Trainer.

    A ``UserError`` from a class that the parser was building comes out as it was raised, without the parser's
    words around it.
    """
    from argparse import ArgumentError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        own = _raised_before(error)
        if own is not None:
            raise own from error
        if not isinstance(error, ArgumentError) and type(error).__name__ != "MisconfigurationException":
            raise
        raise UserError(_in_one_line(str(error))) from error


def _in_one_line(text: str) -> str:
    """The parser's message without its line breaks, its account of Python types and what else it has tried."""
    # A plain value, as the user typed it; of lists and mappings the parser repeats all.
    text = re.sub(r"\s*Given value type: .*\n\s*Given value: ([^\n{\[(]{1,40})(?=\n|$)", r", got \1", text)
    text = re.sub(
        r"\s*- Problem with given class_path 'lightning.Callback':\n?\s*Option '\w+' is not accepted", "", text
    )
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r" - Expected a <class 'NoneType'>| Given value type: .*$| Subtypes: \[.*?\](?= Errors:)", "", text)
    return text.strip()


def _raised_before(error: BaseException) -> UserError | None:
    """The ``UserError`` that ``error`` was raised from or while handling."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, UserError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None
