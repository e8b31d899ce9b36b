"""What a training step reads and predicts: a pure function of the optimizer step.

Nothing in the project remembers a phase. Whoever needs to know it (the data plan, the callback, the
accounting) asks the schedule about a step, so a resumed run is in the right phase by construction.
"""

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from tst_lightning.errors import UserError

MAX_LISTED_STAGES = 64
"""A length curriculum changes the stage every few steps."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training whose steps all have batches of one shape.

    Args:
        first_step: the first optimizer step of the stage.
        bag_size: tokens read per position; 1 is ordinary next-token training.
        target_bag_size: tokens predicted per position. Usually ``bag_size``, but output-only superposition reads
            single tokens and predicts bags.
        row_divisor: a step has this many times fewer rows than the run's batch. ``bag_size``, if a step is to
            read as many tokens whatever its bag size is (patch-level training).
        sequence_length: positions of a row, if they are not the run's; there are as many times more rows as rows
            are shorter.
    """

    first_step: int
    bag_size: int
    target_bag_size: int
    row_divisor: int = 1
    sequence_length: int | None = None

    @property
    def superposed(self) -> bool:
        """Whether the stage trains with superposition."""
        return self.target_bag_size > 1


@dataclass(frozen=True)
class Schedule:
    """Stages in order of their first step; the last one has no end.

    ``Schedule()`` is the baseline: one token a position from the first step to the last.
    """

    stages: tuple[Stage, ...] = (Stage(0, 1, 1),)
    of_length: Callable[[int], "Schedule"] | None = field(default=None, compare=False, repr=False)
    """What the options that this schedule is made of read in a run of so many steps; raises ``UserError`` where they
    make none. Without it, the stages stay where they are."""

    def __post_init__(self) -> None:
        first_steps = [stage.first_step for stage in self.stages]
        if not self.stages or first_steps[0] != 0:
            raise UserError(f"a schedule's first stage starts at step 0, got first steps {first_steps[:5]}")
        if any(later <= earlier for earlier, later in itertools.pairwise(first_steps)):
            raise UserError(f"a schedule's stages start at increasing steps, got {first_steps}")
        if any(min(stage.bag_size, stage.target_bag_size, stage.row_divisor) < 1 for stage in self.stages):
            raise UserError(f"a bag holds at least one token, got {[s.bag_size for s in self.stages]}")
        if any(stage.sequence_length is not None and stage.sequence_length < 1 for stage in self.stages):
            raise UserError(f"a row has at least one position, got {[s.sequence_length for s in self.stages][:5]}")

    @classmethod
    def of_bag_sizes(
        cls,
        bag_sizes: Sequence[int],
        first_steps: Sequence[int],
        superpose_inputs: bool = True,
        constant_tokens: bool = False,
    ) -> "Schedule":
        """Superposition with one bag size after the other; the last is usually 1, which is recovery.

        Args:
            bag_sizes: ``s`` of each stage.
            first_steps: of each stage. A stage that ends where it starts is left out.
            superpose_inputs: whether inputs are bags, or only targets.
            constant_tokens: whether a step reads as many tokens in every stage, in ``s`` times fewer rows.
        """
        ends = [*first_steps[1:], None]
        stages = [
            Stage(first, size if superpose_inputs else 1, size, size if constant_tokens and superpose_inputs else 1)
            for size, first, end in zip(bag_sizes, first_steps, ends, strict=True)
            if end is None or end > first
        ]
        # Stages that follow one another alike are one.
        return cls(
            tuple(
                stage
                for before, stage in zip([None, *stages], stages, strict=False)
                if before is None or asdict(before) | {"first_step": 0} != asdict(stage) | {"first_step": 0}
            )
        )

    @classmethod
    def superposition(cls, bag_size: int, recovery_step: int, superpose_inputs: bool = True) -> "Schedule":
        """Token-Superposition Training: superposition for steps ``[0, recovery_step)``, then recovery."""
        return cls.of_bag_sizes((bag_size, 1), (0, recovery_step), superpose_inputs)

    def stage(self, step: int) -> Stage:
        """The stage that optimizer step ``step`` (counted from 0) belongs to."""
        return self.stages[bisect_right(self._first_steps, step) - 1]

    def bag_size(self, step: int) -> int:
        """Tokens read per position at ``step``."""
        return self.stage(step).bag_size

    @property
    def last_switch(self) -> int:
        """The first step of the last stage: of recovery, if there is superposition before it."""
        return self.stages[-1].first_step

    def spans(self, steps: int) -> list[tuple[Stage, int]]:
        """Each stage with the number of steps it has within the first ``steps`` steps of a run."""
        ends = [stage.first_step for stage in self.stages[1:]] + [max(steps, self.stages[-1].first_step)]
        return [
            (stage, max(0, min(end, steps) - stage.first_step)) for stage, end in zip(self.stages, ends, strict=True)
        ]

    def positions(self, steps: int, positions_per_step: int) -> int:
        """Positions of the first ``steps`` steps: what the transformer pays for.

        Args:
            steps: optimizer steps.
            positions_per_step: of a step whose stage has ``row_divisor`` 1.
        """
        return sum(positions_per_step // stage.row_divisor * count for stage, count in self.spans(steps))

    def data_tokens(self, steps: int, positions_per_step: int) -> int:
        """Tokens of text that the first ``steps`` steps read.

        ``B*L * N*(r*s + 1 - r)`` for Token-Superposition Training (paper, section 3), ``B*L*N`` for patch-level
        training.
        """
        return sum(
            positions_per_step // stage.row_divisor * stage.bag_size * count for stage, count in self.spans(steps)
        )

    def as_dict(self) -> list[dict[str, Any]]:
        """JSON form, kept in checkpoints to refuse a resume under another schedule; of many stages, a fingerprint."""
        stages = [asdict(stage) for stage in self.stages]
        if len(stages) <= MAX_LISTED_STAGES:
            return stages
        return [{"stages": len(stages), "sha256": hashlib.sha256(json.dumps(stages).encode()).hexdigest()}]

    @cached_property
    def _first_steps(self) -> list[int]:
        return [stage.first_step for stage in self.stages]
