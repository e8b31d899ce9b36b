"""What to tell a user whose checkpoint was trained by another schedule than the run that is to go on from it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.learning_rate import Restart, WarmupStableDecay
from tst_lightning.schedule import Schedule
from tst_lightning.stages import SuperpositionStages

StageDict = dict[str, Any]
"""A ``schedule.Stage`` as ``Schedule.as_dict`` has it; or, of a schedule with very many, ``stages`` and ``sha256``."""

_LISTED = 6
"""Stages that a message names."""
CLASS_PATH = "callbacks.SuperpositionCallback"
OF_THE_LAST = "(of SuperpositionCallback, which has to be the last of trainer.callbacks)"
"""The parser changes options of that one."""


@dataclass(frozen=True)
class ScheduleChange:
    """The schedule of a checkpoint, and that of the run.

    Args:
        saved: stages by which the checkpoint was trained.
        schedule: of the run.
        saved_steps: ``max_steps`` of the checkpoint's run; None in checkpoints of releases that did not keep it.
        now_steps: ``max_steps`` of the run.
        step: optimizer steps done in the checkpoint, if it is known.
    """

    saved: Sequence[StageDict]
    schedule: Schedule
    saved_steps: int | None
    now_steps: int
    step: int | None = None

    @property
    def now(self) -> list[StageDict]:
        """Stages of the run."""
        return self.schedule.as_dict()

    def message(self, learning_rate: WarmupStableDecay | None = None, restart: Restart | None = None) -> str:
        """Then, now, what to do about it; and if the run's length changed, what the learning rate does.

        Args:
            learning_rate: schedule of the run, if it is one that is planned over ``max_steps``.
            restart: of the learning rate, in the run as it is set now.
        """
        remedies = [*self._settings(), *self._length()]
        message = f"{self._difference()}: {', or '.join([*remedies, 'start a new run without --ckpt_path'])}"
        sentence = self._learning_rate(learning_rate, restart) if learning_rate is not None else ""
        return f"{message}. {sentence}" if sentence else message

    def _difference(self) -> str:
        if self._has_moved and len(self.saved) == 2:
            then, now = self.saved[1]["first_step"], self.now[1]["first_step"]
            return (
                f"the switch was at step {then}{_of(self.saved_steps)} in this checkpoint and would now be at step "
                f"{now}{_of(self.now_steps)}"
            )
        return (
            f"the checkpoint was trained with {in_words(self.saved)}{_of(self.saved_steps)}, and this run has "
            f"{in_words(self.now)}{_of(self.now_steps)}"
        )

    def _settings(self) -> list[str]:
        """Flags with which the run would have the checkpoint's schedule, at its own length."""
        if not _is_superposed(self.saved):
            return ["leave SuperpositionCallback out"] if _is_superposed(self.now) else []
        first_steps = [stage["first_step"] for stage in self.saved]
        if first_steps[-1] >= self.now_steps or self.saved[-1]["target_bag_size"] != 1:
            return []
        options = {} if self._has_moved and len(self.saved) == 2 else _options(self.saved, self.now)
        if len(self.saved) == 2:
            options["recovery_step"] = first_steps[1]
        else:
            ends = [*first_steps[1:], self.now_steps]
            shares = [(end - first) / self.now_steps for first, end in zip(first_steps, ends, strict=True)]
            options["step_shares"] = f"[{','.join(f'{share:.9g}' for share in shares)}]"
        if _is_superposed(self.now):
            usual = SuperpositionStages(bag_size=1, step_ratio=0)  # what the shipped configs set
            flags = superposition_flags(options, stages_of(self.schedule) or usual)
            return [f"give {' '.join(flags)} {OF_THE_LAST} to go on"]
        return [f"give {' '.join([f'--trainer.callbacks+={CLASS_PATH}', *superposition_flags(options)])} to go on"]

    def _length(self) -> list[str]:
        """The checkpoint's, if the schedule differs because of that."""
        if self.saved_steps in (None, self.now_steps) or not self._is_of_length(self.saved_steps):
            return []
        if self.step == self.saved_steps:
            return [f"leave it at --trainer.max_steps {self.saved_steps}, which it has done"]
        return [f"go on with --trainer.max_steps {self.saved_steps}"]

    def _is_of_length(self, steps: int) -> bool:
        """Whether the run's options, over ``steps``, would be the checkpoint's schedule."""
        try:
            return self.schedule.of_length is not None and self.schedule.of_length(steps).as_dict() == self.saved
        except UserError:
            return False

    def _learning_rate(self, schedule: WarmupStableDecay, restart: Restart | None) -> str:
        """Empty, where the length is the same or not known."""
        if self.saved_steps in (None, self.now_steps) or not self.step:
            return ""
        if restart is not None and "first_step" in self.saved[-1]:  # where the checkpoint's run has it
            restart = replace(restart, step=self.saved[-1]["first_step"])
        then, now = (_decays(schedule, steps, restart) for steps in (self.saved_steps, self.now_steps))
        if not (then or now):
            return ""  # the length does not matter to it
        before = schedule.factor(self.step - 1, self.saved_steps, restart)
        after = schedule.factor(self.step, self.now_steps, restart)
        says = f"stays {after:.3g}" if f"{before:.3g}" == f"{after:.3g}" else f"goes from {before:.3g} to {after:.3g}"
        decay = f"its decay ends at step {self.now_steps} instead of {self.saved_steps}" if now else "it has no decay"
        if now and not then:
            decay = f"it decays until step {self.now_steps}, where it had no decay"
        return (
            f"The learning rate is planned over max_steps too: with {self.now_steps} its factor {says} at step "
            f"{self.step}, and {decay}"
        )

    @property
    def _has_moved(self) -> bool:
        """Whether nothing differs but the steps at which stages begin."""
        shapes = [[stage | {"first_step": None} for stage in stages] for stages in (self.saved, self.now)]
        return _is_superposed(self.saved) and shapes[0] == shapes[1]


def of_module(module: Any) -> dict[str, Any]:
    """The arguments of ``ScheduleChange.message``, where a module has them as ``CausalLMModule`` does."""
    schedule = getattr(module, "learning_rate_schedule", None)
    if not isinstance(schedule, WarmupStableDecay):
        return {}
    return {"learning_rate": schedule, "restart": getattr(module, "learning_rate_restart", None)}


def in_words(stages: Sequence[StageDict]) -> str:
    """``bags of 4 tokens from step 0, single tokens from step 300``."""
    if "sha256" in stages[0]:
        return f"a schedule of {stages[0]['stages']:,} stages (fingerprint {stages[0]['sha256'][:12]})"
    parts = [f"{_content(stage)} from step {stage['first_step']}" for stage in stages[:_LISTED]]
    return ", ".join(parts) + (f" and {len(stages) - _LISTED:,} more stages" if len(stages) > _LISTED else "")


def _content(stage: StageDict) -> str:
    size, target = stage["bag_size"], stage["target_bag_size"]
    content = f"bags of {size} tokens" if size > 1 else "single tokens"
    if target != size:
        content += f" that predict {target}"
    if stage.get("row_divisor", 1) > 1:
        content += f" in {stage['row_divisor']} times fewer rows"
    if stage.get("sequence_length"):
        content += f" in rows of {stage['sequence_length']}"
    return content


def stages_of(schedule: Schedule) -> SuperpositionStages | None:
    """The options that a schedule is made of, where it knows them."""
    stages = getattr(schedule.of_length, "__self__", None)
    return stages if isinstance(stages, SuperpositionStages) else None


def superposition_flags(options: Mapping[str, Any], before: SuperpositionStages | None = None) -> list[str]:
    """``options`` of the run's SuperpositionCallback as flags of `fit`, to paste, with those that have to go for them.

    Args:
        options: by name; what ``recovery_step`` or ``step_shares`` they have is given in steps.
        before: options of the run so far, if it has the callback.
    """
    flags = dict(options)
    groups = (("bag_size", "bag_sizes"), ("step_ratio", "recovery_step", "step_shares"))
    for group in groups:
        if any(name in options for name in group):
            given = [name for name in group if before and getattr(before, name) is not None]
            flags |= {name: "null" for name in given if name not in options}
    if before is not None and before.fraction_of != "steps":
        flags["fraction_of"] = "steps"
    return [shlex.quote(f"--trainer.callbacks.{name}={value}") for name, value in flags.items()]


def _decays(schedule: WarmupStableDecay, max_steps: int, restart: Restart | None) -> bool:
    """Whether a run of so many steps has a decay at its end: a short one may warm up until then."""
    steps = max_steps - restart.step if restart is not None and restart.whole else max_steps
    return schedule.decay_start(steps) < steps


def _options(saved: Sequence[StageDict], now: Sequence[StageDict]) -> dict[str, Any]:
    """Options of ``SuperpositionCallback`` as saved, but for where stages begin; of others only what changed."""
    sizes = [stage["target_bag_size"] for stage in saved]
    options = {"bag_size": sizes[0]} if len(sizes) == 2 else {"bag_sizes": f"[{','.join(map(str, sizes))}]"}
    fewer_rows = [any(one.get("row_divisor", 1) > 1 for one in stages) for stages in (saved, now)]
    if any(fewer_rows):
        options["tokens_per_step"] = "constant" if fewer_rows[0] else "scaled"
    single_inputs = [
        any(one.get("bag_size") != one.get("target_bag_size") for one in stages) for stages in (saved, now)
    ]
    if any(single_inputs):
        options["superpose_inputs"] = "false" if single_inputs[0] else "true"
    return options


def _is_superposed(stages: Sequence[StageDict]) -> bool:
    return any(stage.get("target_bag_size", 1) > 1 for stage in stages)


def _of(max_steps: int | None) -> str:
    return "" if max_steps is None else f" of {max_steps}"
