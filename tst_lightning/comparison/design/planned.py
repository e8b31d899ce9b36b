"""What a `fit` command plans to do, told from its configuration: no model is built and no data are touched."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from tst_lightning.comparison.design.configured import (
    CURRICULUM,
    NGRAM_TARGETS,
    SUPERPOSITION,
    built_callbacks,
    callback_options,
    require_startable,
)
from tst_lightning.comparison.design.flops import planned_flops_per_position
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.schedule import Schedule
from tst_lightning.stages import SuperpositionStages

_LENGTH_FOLLOWERS = (CURRICULUM, NGRAM_TARGETS)
_FLOPS_TOLERANCE = 0.01
"""Arms that are said to cost the same differ by no more than this share."""


@dataclass(frozen=True)
class PlannedRun:
    """The plan of one `fit`, for one device; more devices do the same beside it."""

    config: Mapping[str, Any]
    """The resolved configuration, as `fit` keeps it in ``config.yaml``."""
    max_steps: int
    """Optimizer steps."""
    positions_per_step: int
    """Positions of an optimizer step on one device; where bags come in fewer rows, of a step without."""
    stages: SuperpositionStages | None = None
    """Options of superposition, if there is some."""
    follows_length: str | None = None
    """Name of another callback whose doing at a step depends on the length of the run."""
    learning_rate: WarmupStableDecay | None = None
    """None for a schedule that is not known here."""
    batches: int = 1
    """Micro-batches over the whole run."""
    validation_batches: int | None = None
    """Micro-batches from one validation to the next; None where that is not known beforehand."""
    devices: int = 1
    """Processes on one machine, each with threads of its own."""
    on_gpu: bool = False

    @cached_property
    def schedule(self) -> Schedule:
        return self.schedule_of(self.max_steps)

    def schedule_of(self, steps: int) -> Schedule:
        """The schedule that the same options have in a run of ``steps`` steps."""
        return self.stages.schedule(steps) if self.stages else Schedule()

    @property
    def data_tokens(self) -> int:
        """Tokens read from the corpus over the whole run, on one device: ``B*L * N*(r*s + 1 - r)``."""
        return self.schedule.data_tokens(self.max_steps, self.positions_per_step)

    @property
    def positions(self) -> int:
        """Positions of the whole run on one device: what the transformer pays for."""
        return self.schedule.positions(self.max_steps, self.positions_per_step)

    @property
    def flops(self) -> int:
        """Training FLOPs of the whole run on one device.

        Raises:
            UserError: they are known only with the data, or with a checkpoint.
        """
        return self.positions * self._flops_per_position

    @property
    def _flops_per_position(self) -> int:
        if self.follows_length == CURRICULUM:
            raise UserError(
                f"what a step of {CURRICULUM} costs depends on the lengths of the documents, so equal_flops_with "
                "can set no steps by it: leave it out, and the report says how many times the FLOPs an arm has"
            )
        return planned_flops_per_position(self.config)

    def steps_for_flops(self, flops: int) -> int:
        """How many steps of this run cost so much, on one device.

        In whole intervals of validation, so that the last step is validated: to the nearest such number.

        Raises:
            UserError: what a step costs is known only with the data, no step is left for a recovery, or the nearest
                such number costs another amount.
        """
        in_positions = flops / self._flops_per_position
        every = self._steps_between_validations()

        def positions(intervals: int) -> int:
            steps = intervals * every
            try:
                return self.schedule_of(steps).positions(steps, self.positions_per_step)
            except UserError:  # too short for a recovery
                return 0

        # Every step has at least a row; more steps cost more.
        most = math.ceil(in_positions) + 1
        too_many = bisect_right(range(1, most), in_positions, key=positions) + 1
        found = min(max(1, too_many - 1), too_many, key=lambda count: abs(positions(count) - in_positions))
        steps = found * every
        self.schedule_of(steps)  # refuses one that is too short
        off = positions(found) / in_positions - 1
        if abs(off) > _FLOPS_TOLERANCE:
            batches = max(1, int(2 * _FLOPS_TOLERANCE * steps)) * (self.batches // self.max_steps)
            raise UserError(
                f"equal_flops_with: of whole intervals of validation, which are {every} steps, {steps} steps come "
                f"nearest, and cost {abs(off):.1%} {'more' if off > 0 else 'less'}: validate more often "
                f"(trainer.val_check_interval: 0.25, a share of the run, or at most {batches} batches), or train longer"
            )
        return steps

    def _steps_between_validations(self) -> int:
        """Of a run of any length that ends with a validation: its steps are a multiple of this."""
        if not self.validation_batches:
            return 1
        of_a_share = isinstance(self.config["trainer"].get("val_check_interval"), float)
        batches = round(self.batches / self.validation_batches) if of_a_share else self.validation_batches
        return batches // math.gcd(batches, self.batches // self.max_steps)

    def steps_for_the_same_data(self, positions_per_step: int) -> int:
        """How many steps of so many positions read as many tokens, one token a position: to the nearest step."""
        return round(self.data_tokens / positions_per_step)

    def branch_step(self, steps: int) -> int:
        """The optimizer step at which a run of ``steps`` steps branches off this one: where its decay begins.

        Raises:
            UserError: it would not be the run of ``steps`` steps, or not a finished one.
        """
        if self.learning_rate is None:
            raise UserError(
                "its learning rate is not a WarmupStableDecay, and only with that is a short run the beginning of a "
                "long one: leave it out of `branch`"
            )
        if self.follows_length:
            raise UserError(
                f"what {self.follows_length} does at a step depends on the length of the run, so a shorter run is not "
                "the beginning of a longer one: leave it out of `branch`"
            )
        switch = self.schedule.last_switch
        if switch and self.stages.moves_with_length:
            raise UserError(
                "its switch is at a share of its length (step_ratio), so a shorter run is not the beginning of a "
                "longer one: give a recovery_step instead, or leave it out of `branch`"
            )
        # The last step at the full rate, after which n and more steps differ.
        branch_step = self.learning_rate.decay_start(steps)
        if branch_step >= steps:
            raise UserError(
                f"with decay_ratio={self.learning_rate.decay_ratio} a run of {steps} steps has no decay to branch "
                "off for: raise decay_ratio, or leave it out of `branch`"
            )
        least = {"its recovery begins": switch, "it trains": 1}
        for name, step in least.items():
            if branch_step < step:
                raise UserError(
                    f"a run of {steps} steps begins to decay at step {branch_step}, before {name} at step {step}: "
                    "leave out that length, or leave it out of `branch`"
                )
        return branch_step


def planned_run(arguments: Sequence[str]) -> PlannedRun:
    """Parse a `fit` command (what follows the command's name).

    Raises:
        UserError: it does not parse, or has no length in steps.
    """
    from tst_lightning.run.lightning_cli import parse_fit

    return plan_of(parse_fit(arguments))


def plan_of(config: Mapping[str, Any]) -> PlannedRun:
    """The plan of a resolved configuration.

    Raises:
        UserError: ``trainer.max_steps`` is not set, nothing would be validated, or the run would refuse to start
            (``configured.require_startable``).
    """
    trainer, data = config["trainer"], config["data"]
    max_steps = trainer["max_steps"]
    if max_steps < 1:
        raise UserError(
            f"trainer.max_steps is {max_steps}: set it to the number of optimizer steps, or give the experiment "
            "`lengths`"
        )
    if trainer.get("limit_val_batches") == 0:
        raise UserError(
            "trainer.limit_val_batches is 0, and runs are compared by their validation loss: remove it, or give the "
            "same number of batches in all arms"
        )
    stages = _stages(callback_options(config, SUPERPOSITION))
    require_startable(config, stages.schedule(max_steps) if stages else Schedule())
    learning_rate = config["model"].get("learning_rate_schedule")
    known = isinstance(learning_rate, Mapping) and "class_path" not in learning_rate
    return PlannedRun(
        config,
        max_steps,
        trainer["accumulate_grad_batches"] * data["batch_size"] * data["sequence_length"],
        stages,
        next((name for name in _LENGTH_FOLLOWERS if callback_options(config, name) is not None), None),
        WarmupStableDecay(**learning_rate) if known else None,
        batches := max_steps * trainer["accumulate_grad_batches"],
        _validation_batches(trainer.get("val_check_interval"), batches),
        *_devices(trainer),
    )


def require_tables(plans: Mapping[str, PlannedRun]) -> None:
    """Refuse arms whose n-gram table or weights file is not there: they would fail when their turn comes.

    Raises:
        UserError: naming every such arm.
    """
    from tst_lightning.data.mutual_information.weights import read_fit
    from tst_lightning.data.ngram.table_manifest import TableManifest

    readers = ((SUPERPOSITION, "weights_file", read_fit), (NGRAM_TARGETS, "table", TableManifest.load))
    problems = []
    for arm, plan in plans.items():
        for name, option, read in readers:
            path = (callback_options(plan.config, name) or {}).get(option)
            try:
                if path is not None:
                    read(path)
                    built_callbacks(plan.config, name)  # refuses weights that do not go with the file
            except UserError as error:
                problems.append(f"arm '{arm}': {error}")
    if problems:
        raise UserError("\n  ".join(problems))


def require_final_validation(plans: Mapping[str, PlannedRun]) -> None:
    """Refuse arms that do not validate after their last step: they would be judged in the middle of their decay.

    Raises:
        UserError: naming every such arm.
    """
    problems = [
        f"arm '{arm}' has {plan.batches} batches and validates every {plan.validation_batches}, last after "
        f"{plan.batches - plan.batches % plan.validation_batches}: its final loss would be that of an unfinished "
        f"model; give it a trainer.val_check_interval that divides {plan.batches}, for example "
        f"{max(n for n in range(1, plan.validation_batches) if plan.batches % n == 0)}"
        for arm, plan in plans.items()
        if plan.validation_batches and plan.batches % plan.validation_batches
    ]
    if problems:
        raise UserError("\n  ".join(problems))


def _validation_batches(interval: Any, batches: int) -> int | None:
    """One epoch is the whole run, so a share of the one is a share of the other."""
    if isinstance(interval, float):
        return max(1, int(interval * batches))
    return interval if isinstance(interval, int) and interval > 0 else None


def _devices(trainer: Mapping[str, Any]) -> tuple[int, bool]:
    """How many devices of this machine the Trainer takes, and whether they are GPUs."""
    accelerator, devices = str(trainer.get("accelerator", "cpu")), trainer.get("devices", 1)
    on_gpu, gpus = accelerator in ("gpu", "cuda"), 0
    if on_gpu or accelerator == "auto":
        import torch

        gpus = torch.cuda.device_count()
        on_gpu = on_gpu or gpus > 0
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices), on_gpu
    try:
        number = int(devices)
    except (TypeError, ValueError):  # "auto": all GPUs, or one process
        number = -1
    return (number if number > 0 else max(1, gpus)), on_gpu


def _stages(options: Mapping[str, Any] | None) -> SuperpositionStages | None:
    """What ``SuperpositionCallback`` will make its schedule of."""
    if options is None:
        return None
    given = {field.name: options[field.name] for field in fields(SuperpositionStages) if field.name in options}
    return SuperpositionStages(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
