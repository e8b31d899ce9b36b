"""How much text a preparation takes, and how tasks that run side by side stop where one reader would have."""

from dataclasses import dataclass, fields

from tst_lightning.data.preparing.amounts import Amounts


@dataclass(frozen=True)
class Limits:
    """What may be taken at most. The document that would exceed a limit is left out and ends the reading."""

    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None

    def allow(self, amounts: Amounts) -> bool:
        """Whether none of the limits is exceeded."""
        return all(limit is None or amount <= limit for limit, amount in self._pairs(amounts))

    def less(self, amounts: Amounts) -> "Limits":
        """What is left after ``amounts``."""
        return Limits(*(None if limit is None else limit - amount for limit, amount in self._pairs(amounts)))

    def _pairs(self, amounts: Amounts) -> list[tuple[int | None, int]]:
        return [(getattr(self, field.name), getattr(amounts, field.name)) for field in fields(self)]


NO_LIMITS = Limits()
