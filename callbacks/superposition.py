"""SuperpositionCallback: Token-Superposition Training of a LightningModule, in one callback.

The callback needs little of the module and the datamodule, so that it works with yours:

- ``datamodule.set_schedule(schedule)`` (called in ``setup``, before loaders are built): from then on training
  batches hold ``schedule.bag_size(step)`` tokens per position at optimizer step ``step``, also with prefetching
  workers;
- ``datamodule.check(max_steps, accumulate, world_size)``, if there is one: refuses a run that the data cannot serve;
- ``datamodule.bag_size``: set by the callback when the stage changes, for modules that fold themselves;
- ``module.get_input_embeddings()``: the embedding, which learns to take bags ``(B, L, s)``;
- ``module.loss``: called by the module as ``loss(hidden, head_weight, targets)``; swapped at the switch.

Only if asked to begin something anew at the switch:

- ``module.learning_rate_restart`` (``on_switch`` ``restart`` and ``restart_schedule``): set in ``setup`` to the
  ``learning_rate.Restart`` that the module's learning rate follows (``WarmupStableDecay.factor`` takes it), or None;
- ``module.init_seed``, ``module.new_model(seed)`` and ``module.get_output_embeddings()`` (``reinitialize``): where
  the new weights come from, and what else they go to.

Peng, Gigant, Quesnelle, arXiv 2605.06546, section 3; patch-level training: Shao, Meng, Zhou, arXiv 2407.12665.
"""

from collections.abc import Callable
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from callbacks.resuming import SameRunCallback
from callbacks.superposed_loss import LossKind, require_weights_in_use, superposed_loss, weights_by_bag_size
from callbacks.switch import OnSwitch, Reinitialize, reinitialize_embedding_and_head, reset_optimizer
from tst_lightning.bags import WeightKind, superpose_embedding
from tst_lightning.data.reading.options import replicas
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import Restart
from tst_lightning.schedule import Schedule, Stage
from tst_lightning.schedule_change import ScheduleChange, of_module
from tst_lightning.stages import FractionOf, SuperpositionStages, TokensPerStep

STATE_VERSION = 3


class SuperpositionCallback(SameRunCallback):
    """Superposition for the first steps of a fit, ordinary next-token training (recovery) for the rest.

    Model, optimizer state and learning rate run straight through the switch, unless told otherwise. Expect the
    training loss to jump there, because the objective changes. Without this callback the same config is the
    baseline. Patch-level training is this callback with ``tokens_per_step="constant"``, ``fraction_of="data"`` and
    ``on_switch="restart_schedule"`` (configs/method/patch_level.yaml).

    Args:
        bag_size: ``s``, tokens per position in superposition; the paper's best are 4 to 8. 1 is the baseline.
        step_ratio: ``r``, share of ``trainer.max_steps`` in superposition; the paper's best are 0.2 to 0.4. With
            several ``bag_sizes`` they have equal parts of it.
        recovery_step: instead of ``step_ratio``, the first optimizer step of recovery.
        bag_sizes: instead of ``bag_size``, several, one after the other, the last of which is 1: ``[8, 4, 2, 1]``.
        step_shares: instead of ``step_ratio``, the share of each of ``bag_sizes``; they sum to 1.
        fraction_of: what ``step_ratio`` and ``step_shares`` are shares of: the optimizer ``steps``, or the ``data``
            (tokens of text) that the run reads.
        tokens_per_step: whether a superposed step reads ``s`` times the text in as many positions (``scaled``), or
            as much text in ``s`` times fewer rows (``constant``), which costs ``s`` times less.
        weights: weight of each token of a target bag: ``uniform``, ``power_law`` (better from ``s = 8`` on),
            ``exponential``, ``first_token``, or ``s`` numbers.
        weights_file: instead of ``weights``, the ``mutual_information.json`` that ``tst-lightning
            mutual-information`` wrote: weights proportional to the fitted information of a token ``i`` further on.
        loss: ``multi_hot`` cross-entropy; as ablations ``mce_alt`` (minus the log of the summed probability of the
            bag's tokens), ``hinge`` or ``binary_cross_entropy``.
        interpolate: share of the superposed steps, at their end, over which the target weights move linearly to the
            bag's first token alone, which is next-token prediction.
        superpose_inputs: whether inputs are bags. If not (output-only superposition), inputs are single tokens
            that each predict the next ``s``, and no more data is read than by the baseline.
        superpose_outputs: whether targets are bags. If not (input-only), a bag predicts the next bag's first
            token.
        on_switch: when the first batch of the recovery step starts, ``carry`` the optimizer's state over (the
            paper), ``reset_optimizer`` to forget it, ``restart`` to also repeat the learning rate's warm-up from
            there; the rate before the switch and the decay at the run's end stay. ``restart_schedule`` gives each
            side of the switch a whole learning-rate schedule of its own (patch-level training).
        reinitialize: ``embedding_and_head`` gives both new random weights at the switch, from a seed that follows
            ``init_seed``, and forgets their optimizer state. The paper's ablation: it destroys the gain.

    Raises:
        UserError: a value out of range (at construction), or a trainer, module or datamodule that lacks what
            the callback needs (in ``setup``, before any work).
    """

    trained_with = "superposition"
    not_compared = frozenset({"max_steps"})

    def __init__(
        self,
        bag_size: int | None = None,
        step_ratio: float | None = None,
        recovery_step: int | None = None,
        bag_sizes: list[int] | None = None,
        step_shares: list[float] | None = None,
        fraction_of: FractionOf = "steps",
        tokens_per_step: TokensPerStep = "scaled",
        weights: WeightKind | list[float] = "uniform",
        weights_file: str | None = None,
        loss: LossKind = "multi_hot",
        interpolate: float = 0.0,
        superpose_inputs: bool = True,
        superpose_outputs: bool = True,
        on_switch: OnSwitch = "carry",
        reinitialize: Reinitialize = "none",
    ) -> None:
        super().__init__()
        self.stages = SuperpositionStages(
            bag_size, step_ratio, recovery_step, bag_sizes and tuple(bag_sizes), step_shares and tuple(step_shares),
            fraction_of, tokens_per_step, superpose_inputs,
        )  # fmt: skip
        if not (superpose_inputs or superpose_outputs):
            raise UserError(
                "superpose_inputs and superpose_outputs are both false, which leaves nothing to superpose: "
                "drop the callback for the baseline"
            )
        choices = (("on_switch", on_switch, OnSwitch), ("reinitialize", reinitialize, Reinitialize))
        for name, value, kind in (*choices, ("loss", loss, LossKind)):
            if value not in get_args(kind):
                raise UserError(f"{name}={value!r}: choose {', '.join(get_args(kind))}")
        require_weights_in_use(self.stages.sizes, loss, weights, weights_file, interpolate, superpose_outputs)
        self.weights_file = weights_file
        self.weights = weights_by_bag_size(self.stages, weights, weights_file, superpose_outputs)
        self.superpose_inputs = superpose_inputs
        self.loss = loss
        self.interpolate = interpolate
        self.on_switch = on_switch
        self.reinitialize = reinitialize
        self.schedule = Schedule()
        self._max_steps: int | None = None
        self._stage: Stage | None = None
        self._hook = None

    # Before work ----------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._check_protocol(trainer, pl_module)
        if trainer.max_steps is None or trainer.max_steps < 1:
            raise UserError(
                f"superposition needs the run's length in steps, got trainer.max_steps={trainer.max_steps}: "
                "set trainer.max_steps (epochs do not tell how many steps there will be)"
            )
        self._max_steps = trainer.max_steps
        self.schedule = self.stages.schedule(trainer.max_steps)
        self._require_targets_within_documents(trainer.datamodule)
        trainer.datamodule.set_schedule(self.schedule)
        if hasattr(pl_module, "learning_rate_restart"):
            begins_anew = self.on_switch in ("restart", "restart_schedule") and self.schedule.last_switch > 0
            restart = Restart(self.schedule.last_switch, whole=self.on_switch == "restart_schedule")
            pl_module.learning_rate_restart = restart if begins_anew else None
        if callable(getattr(trainer.datamodule, "check", None)):
            trainer.datamodule.check(trainer.max_steps, trainer.accumulate_grad_batches, replicas(trainer)[0])

    def _check_protocol(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        missing = []
        if not callable(getattr(data, "set_schedule", None)):
            missing.append(f"set_schedule(schedule) on the datamodule ({type(data).__name__})")
        if not callable(getattr(pl_module, "loss", None)):
            missing.append(f"a callable `loss(hidden, head_weight, targets)` on {type(pl_module).__name__}")
        if not callable(getattr(pl_module, "get_input_embeddings", None)):
            missing.append(f"get_input_embeddings() on {type(pl_module).__name__}")
        wanted = ["learning_rate_restart"] if self.on_switch in ("restart", "restart_schedule") else []
        wanted += ["init_seed", "new_model", "get_output_embeddings"] if self.reinitialize != "none" else []
        missing += [f"{name} on {type(pl_module).__name__}" for name in wanted if not hasattr(pl_module, name)]
        if missing:
            raise UserError(
                f"SuperpositionCallback needs {'; '.join(missing)}: see the protocol in callbacks/superposition.py"
            )
        if self.weights_file is not None:
            from tst_lightning.data.mutual_information.weights import require_tokenizer

            require_tokenizer(self.weights_file, getattr(getattr(data, "manifest", None), "tokenizer", None))

    def _require_targets_within_documents(self, data: Any) -> None:
        """Folding aligns bags with documents; those of output-only superposition are read off single tokens."""
        superposed = any(stage.superposed for stage in self.schedule.stages)
        by_document = getattr(data, "fold_by_document", False) and not getattr(data, "isolate_documents", False)
        if superposed and by_document and not self.superpose_inputs:
            raise UserError(
                "data.fold_by_document=true with superpose_inputs=false: the next s tokens of a position would still "
                "cross the end of its document; set data.isolate_documents to true, or leave out fold_by_document"
            )

    # While training -------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of another schedule; teach the embedding to take bags."""
        super().on_fit_start(trainer, pl_module)
        self._next_token_loss = pl_module.loss
        self._hook = superpose_embedding(pl_module.get_input_embeddings())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Enter the stage of this optimizer step, if it is another than the last batch's."""
        stage = self.schedule.stage(trainer.global_step)
        share = self.next_token_share(trainer.global_step)
        if stage is not self._stage:
            if trainer.global_step == self.schedule.last_switch > 0:
                # A checkpoint of this step was saved before its first batch: whoever resumes it comes by here.
                self._begin_anew(trainer, pl_module)
            trainer.datamodule.bag_size = stage.bag_size
            rank_zero_info(self._announcement(trainer.global_step, stage))
        elif not share:
            return
        self._stage = stage
        loss = self._next_token_loss
        if stage.superposed:
            weights = self.weights[stage.target_bag_size]
            loss = superposed_loss(self.loss, weights, not self.superpose_inputs, share, loss)
        _set_loss(pl_module, loss)

    def _announcement(self, step: int, stage: Stage) -> str:
        """Of a stage that begins, or that a resumed run is in."""
        phase = "superposition" if stage.superposed else "recovery"
        tokens = f"{stage.bag_size} token{'s' if stage.bag_size > 1 else ''} per input position"
        if step == stage.first_step:
            return f"Step {step}: {phase}, {tokens}"
        return f"Goes on at step {step}, in {phase} with {tokens} since step {stage.first_step}"

    def next_token_share(self, step: int) -> float:
        """How far the target weights have moved to next-token prediction at ``step``: 0 to 1."""
        switch = self.schedule.last_switch
        steps = self.interpolate * switch
        return max(0.0, (step + 1 - (switch - steps)) / steps) if steps and step < switch else 0.0

    def _begin_anew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The recovery step is about to begin."""
        if self.on_switch != "carry":
            for optimizer in trainer.optimizers:
                reset_optimizer(optimizer)
        if self.reinitialize == "embedding_and_head":
            reinitialize_embedding_and_head(pl_module, trainer.optimizers)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
            _set_loss(pl_module, self._next_token_loss)
            self._hook = self._stage = None
        if hasattr(pl_module, "learning_rate_restart"):
            pl_module.learning_rate_restart = None

    # Resuming -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "max_steps": self._max_steps,
            "schedule": self.schedule.as_dict(),
            "weights": [list(weights) for weights in self.weights.values()],
            "loss": self.loss,
            "interpolate": self.interpolate,
            "on_switch": self.on_switch,
            "reinitialize": self.reinitialize,
        }

    def refusal(self, differing: dict[str, tuple[Any, Any]], pl_module: LightningModule) -> str:
        if "schedule" not in differing:
            return super().refusal(differing, pl_module)
        # Other differences are named when the schedule is mended: the weights may follow from its bag sizes.
        saved, saved_steps = differing["schedule"][0], self._saved_state.get("max_steps")
        change = ScheduleChange(saved, self.schedule, saved_steps, self._max_steps, self._saved_step)
        return change.message(**of_module(pl_module))

    def remedy(self, name: str, saved: Any) -> str:
        if name == "weights":
            return "set weights or weights_file as in the config.yaml of the checkpoint's run"
        return super().remedy(name, saved)


def _set_loss(pl_module: LightningModule, loss: Callable) -> None:
    """Assign ``pl_module.loss``; torch does not let a plain callable replace a submodule."""
    if isinstance(pl_module.loss, nn.Module):
        del pl_module.loss
    pl_module.loss = loss
