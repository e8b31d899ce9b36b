"""What determines the content of an n-gram table."""

from dataclasses import dataclass
from typing import Literal, get_args

from tst_lightning.errors import UserError

Rule = Literal["A", "E"]
MOST_TARGETS = 255


@dataclass(frozen=True)
class NgramOptions:
    """The same options and the same corpus make the same files, byte for byte.

    Raises:
        UserError: a value out of range.
    """

    n: int = 4
    """A context is the ``n - 1`` tokens before a token."""
    r: int = 8
    """Tokens of a context's distribution that are kept."""
    min_count: int = 2
    """Contexts that occur less often leave their tokens one-hot."""
    rule: Rule = "E"
    """See the package's description."""
    seed: int = 0
    """Of the draws of rule E."""

    def __post_init__(self) -> None:
        for name, least, most in (("n", 2, 64), ("r", 1, MOST_TARGETS), ("min_count", 1, None), ("seed", 0, None)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
                limits = f"from {least} to {most}" if most else f"of at least {least}"
                raise UserError(f"{name}={value!r}: give an integer {limits}")
        if self.rule not in get_args(Rule):
            raise UserError(f"rule={self.rule!r}: choose {' or '.join(get_args(Rule))}")
