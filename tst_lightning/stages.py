"""What the options of superposition say about a run: which bag size, from which step to which."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

FractionOf = Literal["steps", "data"]
TokensPerStep = Literal["scaled", "constant"]

MAX_BAG_SIZE = 65_536
"""Each place in a bag has a weight of its own."""


@dataclass(frozen=True)
class SuperpositionStages:
    """Options from which a run of any length has its ``Schedule``. ``callbacks.SuperpositionCallback`` explains them.

    Raises:
        UserError: an option out of range, or options that do not go together.
    """

    bag_size: int | None = None
    step_ratio: float | None = None
    recovery_step: int | None = None
    bag_sizes: tuple[int, ...] | None = None
    step_shares: tuple[float, ...] | None = None
    fraction_of: FractionOf = "steps"
    tokens_per_step: TokensPerStep = "scaled"
    superpose_inputs: bool = True

    def __post_init__(self) -> None:
        self._require_sizes()
        self._require_lengths()
        for name, kind in (("fraction_of", FractionOf), ("tokens_per_step", TokensPerStep)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name}={getattr(self, name)!r}: choose {' or '.join(get_args(kind))}")
        if self.tokens_per_step == "constant" and not self.superpose_inputs:
            raise UserError(
                "tokens_per_step=constant with superpose_inputs=false: single inputs read the same number of tokens in "
                "every stage anyway, leave tokens_per_step out"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bag size of each stage, the recovery's 1 included."""
        return self.bag_sizes or (self.bag_size, 1)

    @property
    def moves_with_length(self) -> bool:
        """Whether a longer run switches later."""
        return self.recovery_step is None and any(size > 1 for size in self.sizes)

    def schedule(self, max_steps: int) -> Schedule:
        """The schedule of a run of ``max_steps`` optimizer steps.

        Raises:
            UserError: no step is left for the recovery, or for a superposed stage.
        """
        first_steps = [round(share * max_steps) for share in self._cumulative_shares()]
        if self.recovery_step is not None:
            first_steps = [0, self.recovery_step]
        if first_steps[-1] >= max_steps:
            raise UserError(
                f"superposition until step {first_steps[-1]} leaves no recovery within trainer.max_steps={max_steps}:"
                " end it earlier (the paper recovers for 60 to 80 % of the steps) or train longer"
            )
        self._require_steps(first_steps, max_steps)
        schedule = Schedule.of_bag_sizes(
            self.sizes, first_steps, self.superpose_inputs, constant_tokens=self.tokens_per_step == "constant"
        )
        return replace(schedule, of_length=self.schedule)

    def _require_steps(self, first_steps: list[int], max_steps: int) -> None:
        """Refuse a short run that would leave a stage out without a word."""
        for size, share, (first, end) in zip(self.sizes, self._shares(), itertools.pairwise(first_steps), strict=False):
            if share > 0 and size > 1 and first == end:
                raise UserError(
                    f"bags of {size} tokens are to have a share of {share:.3g} of the {self.fraction_of}, which is no "
                    f"step of trainer.max_steps={max_steps}: train longer, raise the share, or set it to 0"
                )

    def _shares(self) -> list[float]:
        """Share of each stage but the last, of the steps or the data."""
        superposed = self.sizes[:-1]
        if self.step_shares:
            return list(self.step_shares[:-1])
        return [(self.step_ratio or 0) / len(superposed)] * len(superposed)

    def _cumulative_shares(self) -> list[float]:
        """Share of the steps before each stage."""
        shares, superposed = self._shares(), self.sizes[:-1]
        if self.fraction_of == "data":
            shares = _shares_of_steps(shares, superposed, self.tokens_per_step == "scaled" and self.superpose_inputs)
        return [0.0, *(math.fsum(shares[: count + 1]) for count in range(len(shares)))]

    def _require_sizes(self) -> None:
        if (self.bag_size is None) == (self.bag_sizes is None):
            raise UserError(
                "give exactly one of bag_size (one stage of superposition) and bag_sizes (several, one after the "
                f"other), got bag_size={self.bag_size} and bag_sizes={self.bag_sizes}"
            )
        for size in self.sizes:
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_BAG_SIZE:
                raise UserError(
                    f"bag_size={size!r}: give an integer of at least 1 (the paper's best: 4 to 8) and at most "
                    f"{MAX_BAG_SIZE}"
                )
        if self.bag_sizes is not None and (len(self.bag_sizes) < 2 or self.bag_sizes[-1] != 1):
            raise UserError(
                f"bag_sizes={list(self.bag_sizes)}: give two or more, of which the last is 1 (the recovery), such as "
                "[8, 4, 2, 1]"
            )

    def _require_lengths(self) -> None:
        ratio, step, shares = self.step_ratio, self.recovery_step, self.step_shares
        given = [name for name in ("step_ratio", "recovery_step", "step_shares") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(
                "give exactly one of step_ratio (share of the steps), recovery_step (a step) and step_shares (one "
                f"for each of bag_sizes), got {', '.join(f'{name}={getattr(self, name)}' for name in given) or 'none'}"
            )
        if ratio is not None and not 0 <= ratio < 1:
            raise UserError(f"step_ratio={ratio}: give a share from 0 to below 1 (the paper's: 0.2 to 0.4)")
        if step is not None and step < 0:
            raise UserError(f"recovery_step={step}: give a step of at least 0")
        if step is not None and (self.bag_sizes or self.fraction_of == "data"):
            raise UserError(
                f"recovery_step={step} is one switch at a step of its own: give step_ratio or step_shares with "
                "bag_sizes or with fraction_of=data"
            )
        if shares is not None and (
            self.bag_sizes is None
            or len(shares) != len(self.bag_sizes)
            or not all(0 <= share <= 1 for share in shares)
            or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6)
        ):
            raise UserError(
                f"step_shares={list(shares)}: give one share for each of bag_sizes "
                f"({list(self.bag_sizes or ()) or 'not given'}), from 0 to 1, summing to 1"
            )


def _shares_of_steps(data_shares: list[float], bag_sizes: tuple[int, ...], scaled: bool) -> list[float]:
    """Shares of the data as shares of the steps: a step of bags of ``s`` reads ``s`` times as much, if ``scaled``."""
    steps = [share / (size if scaled else 1) for share, size in zip(data_shares, bag_sizes, strict=True)]
    total = math.fsum(steps) + 1 - math.fsum(data_shares)
    return [share / total for share in steps]
