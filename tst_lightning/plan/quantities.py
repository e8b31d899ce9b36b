"""Numbers as people write them in options: ``5B`` tokens, ``1e20`` FLOPs."""

import math
import re

from tst_lightning.errors import UserError

_SCALES = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "b": 1e9, "T": 1e12, "t": 1e12}
"""Not ``m``, which could be a thousandth."""
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMBbTt]?)")


def count(option: str, value: float | str | None) -> float | None:
    """How many are meant by a number or a text such as ``5B``, ``1.5T``, ``300000`` or ``1e20``; of None, None.

    Args:
        option: its name, for the message.
        value: of the option.

    Raises:
        UserError: no number of at least 1.
    """
    number = _number(value)
    if value is not None and not (number is not None and 1 <= number < math.inf):
        raise UserError(f"{option}={_shown(value)}: give a number of at least 1, such as 5B, 100M, 300000 or 1e20")
    return number


def share(option: str, value: float | str | None) -> float | None:
    """A part of the whole, above 0 and at most 1; of None, None. Raises ``UserError`` for anything else."""
    number = _number(value, scaled=False)
    if value is not None and not (number is not None and 0 < number <= 1):
        raise UserError(f"{option}={_shown(value)}: give a share above 0 and at most 1, such as 0.4")
    return number


def amount(option: str, value: float | str | None, example: str) -> float | None:
    """A number above 0 in the unit that the option's name has; of None, None. Raises ``UserError`` for others."""
    number = _number(value, scaled=False)
    if value is not None and not (number is not None and 0 < number < math.inf):
        raise UserError(f"{option}={_shown(value)}: give a number above 0 without a unit, such as {example}")
    return number


def _number(value: float | str | None, scaled: bool = True) -> float | None:
    match = None if value is None or isinstance(value, bool) else _NUMBER.fullmatch(str(value).strip())
    if match is None or (match[2] and not scaled):
        return None
    return float(match[1]) * _SCALES[match[2]]


def _shown(value: float | str) -> str:
    """As it was typed: the parser makes 2.0 of a 2."""
    return f"{value:g}" if isinstance(value, float) else str(value)
