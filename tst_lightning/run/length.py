"""What a run's length means for it where nothing is refused: it is done already, or ends within its warm-up."""

from collections.abc import Iterable
from typing import Any

from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.schedule_change import OF_THE_LAST, superposition_flags
from tst_lightning.stages import SuperpositionStages


def done(max_steps: int, callbacks: Iterable[Any] = ()) -> str:
    """What to tell a user who resumes a run that has done its ``max_steps``: how to train on.

    Args:
        max_steps: of the run and of its checkpoint.
        callbacks: of the Trainer. Where one has ``SuperpositionStages`` as its ``stages``, the switch has to stay.
    """
    found = (getattr(callback, "stages", None) for callback in callbacks)
    stages = next((one for one in found if isinstance(one, SuperpositionStages)), None)
    message = f"this run has done its {max_steps} steps; to train on: --trainer.max_steps N, N above {max_steps}"
    if stages is None or not stages.moves_with_length:
        return message
    switches = [stage.first_step for stage in stages.schedule(max_steps).stages[1:]]
    if len(switches) == 1 and not stages.bag_sizes:
        flags = " ".join(superposition_flags({"recovery_step": switches[0]}, stages))
        return f"{message}, with {flags} {OF_THE_LAST}: the switch stays at step {switches[0]}"
    return f"{message}; the options that leave its bag sizes where they are depend on N, and the refusal names them"


def warm_up_beyond_end(schedule: Any, max_steps: int) -> str | None:
    """What to warn of where a run never reaches its full learning rate; None if it does.

    Args:
        schedule: of the learning rate; others than ``WarmupStableDecay`` are not known.
        max_steps: of the run; -1 is no limit.
    """
    if not isinstance(schedule, WarmupStableDecay) or not 0 < max_steps < schedule.warmup_steps:
        return None
    return (
        f"learning_rate_schedule.warmup_steps={schedule.warmup_steps} is more than trainer.max_steps={max_steps}: the "
        f"learning rate only rises, to {max_steps / schedule.warmup_steps:.3g} of its full value; for a short run give "
        "--model.learning_rate_schedule.warmup_steps fewer of them"
    )
