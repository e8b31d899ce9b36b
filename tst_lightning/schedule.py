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
        if recovery_step == 0 or bag_size == 1:
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
            (stage, max(0, min(end, steps) - stage.first_step)) for stage, end in zip(self.stages, ends, strict=True)
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


@dataclass(frozen=True)
class WarmupStableDecay:
    """Learning-rate factor by optimizer step: linear warm-up, a plateau at 1, linear decay over the last steps.

    Args:
        warmup_steps: steps to reach the full rate.
        decay_ratio: share of the run, at its end, that decays (the paper: 0.1).
        final_ratio: factor that the decay ends at.

    Raises:
        UserError: a value out of range.
    """

    warmup_steps: int = 0
    decay_ratio: float = 0.1
    final_ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps={self.warmup_steps}: give 0 or more steps")
        for name in ("decay_ratio", "final_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value}: give a share between 0 and 1")

    def factor(self, step: int, max_steps: int, restart_step: int | None = None) -> float:
        """Factor for optimizer step ``step`` (from 0) of a run of ``max_steps``.

        Args:
            restart_step: a step at which the rate begins anew. Until there it is as without, warm-up and then
                the plateau; from there the warm-up is repeated. The decay stays where it is, at the end of the
                whole run, so that a restart changes nothing but this.
        """
        factor = self._factor(step, max_steps)
        if restart_step is not None and step >= restart_step:
            factor = min(factor, self._warmup(step - restart_step))
        return factor

    def _factor(self, step: int, max_steps: int) -> float:
        if step < self.warmup_steps:
            return self._warmup(step)
        decay_steps = round(self.decay_ratio * max_steps)
        remaining = max_steps - step
        if remaining >= decay_steps:
            return 1.0
        return self.final_ratio + (1 - self.final_ratio) * max(0, remaining) / decay_steps

    def _warmup(self, step: int) -> float:
        return (step + 1) / self.warmup_steps if step < self.warmup_steps else 1.0
