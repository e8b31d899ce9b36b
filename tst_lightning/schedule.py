"""Which bag size a training step uses: a pure function of the optimizer step.

Nothing in the project remembers a phase. Whoever needs to know it (the data plan, the callback, the
accounting) asks the schedule about a step, so a resumed run is in the right phase by construction.
"""

import itertools
from dataclasses import asdict, dataclass

from tst_lightning.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one bag size.

    Args:
        first_step: the first optimizer step of the stage.
        bag_size: tokens read per position; 1 is ordinary next-token training.
        superposed: whether the stage trains with superposition. Usually ``bag_size > 1``, but output-only
            superposition reads single tokens.
    """

    first_step: int
    bag_size: int
    superposed: bool


@dataclass(frozen=True)
class Schedule:
    """Stages in order of their first step; the last one has no end.

    ``Schedule()`` is the baseline: one token a position from the first step to the last.
    """

    stages: tuple[Stage, ...] = (Stage(0, 1, False),)

    def __post_init__(self) -> None:
        first_steps = [stage.first_step for stage in self.stages]
        if not self.stages or first_steps[0] != 0:
            raise UserError(f"a schedule's first stage starts at step 0, got first steps {first_steps}")
        if any(later <= earlier for earlier, later in itertools.pairwise(first_steps)):
            raise UserError(f"a schedule's stages start at increasing steps, got {first_steps}")
        if any(stage.bag_size < 1 for stage in self.stages):
            raise UserError(f"a bag holds at least one token, got {[s.bag_size for s in self.stages]}")

    @classmethod
    def superposition(cls, bag_size: int, recovery_step: int, superpose_inputs: bool = True) -> "Schedule":
        """Token-Superposition Training: superposition for steps ``[0, recovery_step)``, then recovery."""
        if recovery_step == 0:
            return cls()
        read = bag_size if superpose_inputs else 1
        return cls((Stage(0, read, superposed=True), Stage(recovery_step, 1, superposed=False)))

    def stage(self, step: int) -> Stage:
        """The stage that optimizer step ``step`` (counted from 0) belongs to."""
        return next(stage for stage in reversed(self.stages) if stage.first_step <= step)

    def bag_size(self, step: int) -> int:
        """Tokens read per position at ``step``."""
        return self.stage(step).bag_size

    def spans(self, steps: int) -> list[tuple[Stage, int]]:
        """Each stage with the number of steps it has within the first ``steps`` steps of a run."""
        ends = [stage.first_step for stage in self.stages[1:]] + [max(steps, self.stages[-1].first_step)]
        return [
            (stage, max(0, min(end, steps) - stage.first_step))
            for stage, end in zip(self.stages, ends, strict=True)
        ]

    def tokens_per_position(self, steps: int) -> int:
        """Sum of the bag sizes of steps ``0 .. steps-1``.

        Times the positions of a step, this is the number of data tokens after ``steps`` steps:
        ``B*L * N*(r*s + 1 - r)`` for the two-stage schedule (paper, section 3).
        """
        return sum(stage.bag_size * count for stage, count in self.spans(steps))

    def as_dict(self) -> list[dict[str, int | bool]]:
        """JSON form, kept in checkpoints to refuse a resume under another schedule."""
        return [asdict(stage) for stage in self.stages]
