"""Memory of one device at the fullest moment of a training step, by strategy."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.module import CausalLMModule
from tst_lightning.plan.rehearsal import Peak, Rehearsal, StepShape, rehearse
from tst_lightning.plan.run import DDP, FSDP2, FitPlan
from tst_lightning.schedule import Schedule, Stage


class RehearsalError(Exception):
    """A step cannot be rehearsed; why, in one line."""


MAX_LENGTHS = 2
"""Of a curriculum's many lengths, the shortest and the longest are rehearsed."""


@dataclass(frozen=True)
class Memory:
    """Of one device: that with the largest shards."""

    state_bytes: dict[str, int]
    """Of ``parameters`` (with buffers), ``gradients`` and ``optimizer`` when all are there."""
    peak: Peak
    """Of the fullest stage."""
    stage: str
    checkpoint_bytes: int
    """Weights and optimizer state of the whole run."""


def memory(plan: FitPlan, new_module: Callable[[], CausalLMModule], schedule: Schedule) -> Memory:
    """Rehearse a step of each kind.

    Args:
        plan: of the run.
        new_module: makes its LightningModule, without a model.
        schedule: of the run, with the lengths of a curriculum if they are known.

    Raises:
        UserError: a model that the strategy or its training would refuse.
        RehearsalError: a model whose code looks at values, which fake tensors do not have.
    """
    stages = _distinct(schedule)
    if plan.devices.tensor_parallel > 1:
        from tst_lightning.modeling.tensor_parallel import require_splittable

        require_splittable(new_module().config, plan.devices.tensor_parallel)
    shapes = [_shape(plan, stage) for stage in stages]
    sizes = (plan.devices.data_parallel, plan.devices.tensor_parallel) if plan.devices.strategy == FSDP2 else None
    try:
        with _quiet():
            rehearsal = rehearse(new_module(), shapes, plan.precision, plan.accumulate, plan.devices.on_gpu, sizes)
    except UserError:
        raise
    except Exception as error:  # whatever a model's own code raises on tensors without values
        reason = next(iter(str(error).strip().splitlines()), "")
        raise RehearsalError(f"{type(error).__name__}: {reason[:200]}") from error
    peaks = [_with_buckets(plan, rehearsal, peak) for peak in rehearsal.peaks]
    number = max(range(len(peaks)), key=lambda index: peaks[index].total_bytes)
    return Memory(rehearsal.state_bytes, peaks[number], _stage_name(stages[number]), rehearsal.checkpoint_bytes)


def _distinct(schedule: Schedule) -> list[Stage]:
    """Stages that no other one exceeds in all its sizes: rehearsing takes seconds each."""
    stages = list({_kind(stage): stage for stage in schedule.stages}.values())
    stages = [one for one in stages if not any(_exceeds(other, one) for other in stages if other is not one)]
    if any(stage.sequence_length for stage in stages) and len(stages) > MAX_LENGTHS:
        stages.sort(key=lambda stage: stage.sequence_length or 0)
        stages = [stages[0], stages[-1]]
    return stages


def _exceeds(one: Stage, other: Stage) -> bool:
    return (
        one.sequence_length == other.sequence_length
        and one.row_divisor <= other.row_divisor
        and one.bag_size >= other.bag_size
        and one.target_bag_size >= other.target_bag_size
    )


def _kind(stage: Stage) -> Stage:
    return replace(stage, first_step=0)


def _stage_name(stage: Stage) -> str:
    if stage.sequence_length is not None:
        return f"rows of {stage.sequence_length}"
    return f"s={stage.target_bag_size}"


def _shape(plan: FitPlan, stage: Stage) -> StepShape:
    data = plan.config["data"]
    length = stage.sequence_length or plan.sequence_length
    rows = data["batch_size"] // stage.row_divisor * (plan.sequence_length // length)
    isolated = bool(data.get("isolate_documents"))
    return StepShape(rows, length, stage.bag_size, stage.target_bag_size, _loss(plan, stage), isolated)


def _loss(plan: FitPlan, stage: Stage) -> Callable:
    """As ``SuperpositionCallback`` sets it for a stage."""
    impl = plan.config["model"].get("loss_impl", "chunked")
    if not stage.superposed:
        return MultiHotCrossEntropy(impl=impl)
    callback = plan.superposition
    options = {"weights": callback.weights[stage.target_bag_size], "sliding": not callback.superpose_inputs}
    if callback.loss != "multi_hot":
        from tst_lightning.ablation_losses import AblationLoss

        return AblationLoss(kind=callback.loss, **options)
    return MultiHotCrossEntropy(impl=impl, **options)


def _with_buckets(plan: FitPlan, rehearsal: Rehearsal, peak: Peak) -> Peak:
    """DDP copies gradients into buckets, which stay; as views of them, gradients are there at any time."""
    if plan.devices.strategy != DDP:
        return peak
    gradients = rehearsal.state_bytes["gradients"]
    by_kind = dict(peak.by_kind)
    if plan.devices.buckets_are_gradients:
        by_kind["gradients"] = gradients
    else:
        by_kind["buckets"] = gradients
    return Peak(by_kind, peak.moment)


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn of what they find on a fake device."""
    import warnings

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
