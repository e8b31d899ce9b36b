"""Turns what the argument parser complains about into the project's own one-line errors."""

import contextlib
import re
from collections.abc import Iterator

from tst_lightning.errors import UserError


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Raise a ``UserError`` for an argument or config that does not parse (``exit_on_error=False`` parsers)."""
    from argparse import ArgumentError

    try:
        yield
    except ArgumentError as error:
        text = re.sub(r"\s*\n\s*", " ", str(error)).strip()
        raise UserError(text) from error
