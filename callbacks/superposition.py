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

- ``module.learning_rate_restart_step`` (``on_switch="restart"``): set in ``setup`` to the step from which the
  module's learning rate begins anew (``WarmupStableDecay.factor`` takes it), or None;
- ``module.init_seed``, ``module.new_model(seed)`` and ``module.get_output_embeddings()`` (``reinitialize``): where
  the new weights come from, and what else they go to.

Peng, Gigant, Quesnelle, arXiv 2605.06546, section 3.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from callbacks.switch import OnSwitch, Reinitialize, reinitialize_embedding_and_head, reset_optimizer
from tst_lightning.bags import WeightKind, bag_weights, superpose_embedding
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.schedule import Schedule, Stage


class SuperpositionCallback(Callback):
    """Superposition for the first steps of a fit, ordinary next-token training (recovery) for the rest.

    Model, optimizer state and learning rate run straight through the switch, unless told otherwise. Expect the
    training loss to jump there, because the objective changes. Without this callback the same config is the
    baseline.

    Args:
        bag_size: ``s``, tokens per position in superposition; the paper's best are 4 to 8. 1 is the baseline.
        step_ratio: ``r``, share of ``trainer.max_steps`` in superposition; the paper's best are 0.2 to 0.4.
        recovery_step: instead of ``step_ratio``, the first optimizer step of recovery.
        weights: weight of each token of a target bag: ``uniform``, ``power_law`` (better from ``s = 8`` on),
            ``exponential``, ``first_token``, or ``s`` numbers.
        superpose_inputs: whether inputs are bags. If not (output-only superposition), inputs are single tokens
            that each predict the next ``s``, and no more data is read than by the baseline.
        superpose_outputs: whether targets are bags. If not (input-only), a bag predicts the next bag's first
            token.
        on_switch: when the first batch of the recovery step starts, ``carry`` the optimizer's state over (the
            paper), ``reset_optimizer`` to forget it, or ``restart`` to also repeat the learning rate's warm-up
            from there (patch-level training); the rate before the switch and the decay at the run's end stay.
        reinitialize: ``embedding_and_head`` gives both new random weights at the switch, from a seed that follows
            ``init_seed``, and forgets their optimizer state. The paper's ablation: it destroys the gain.

    Raises:
        UserError: a value out of range (at construction), or a trainer, module or datamodule that lacks what
            the callback needs (in ``setup``, before any work).
    """

    def __init__(
        self,
        bag_size: int,
        step_ratio: float | None = None,
        recovery_step: int | None = None,
        weights: WeightKind | list[float] = "uniform",
        superpose_inputs: bool = True,
        superpose_outputs: bool = True,
        on_switch: OnSwitch = "carry",
        reinitialize: Reinitialize = "none",
    ) -> None:
        if isinstance(bag_size, bool) or not isinstance(bag_size, int) or bag_size < 1:
            raise UserError(f"bag_size={bag_size!r}: give an integer of at least 1 (the paper's best: 4 to 8)")
        if (step_ratio is None) == (recovery_step is None):
            raise UserError(
                "give exactly one of step_ratio (share of the steps) and recovery_step (a step), "
                f"got step_ratio={step_ratio} and recovery_step={recovery_step}"
            )
        if step_ratio is not None and not 0 <= step_ratio < 1:
            raise UserError(f"step_ratio={step_ratio}: give a share from 0 to below 1 (the paper's: 0.2 to 0.4)")
        if recovery_step is not None and recovery_step < 0:
            raise UserError(f"recovery_step={recovery_step}: give a step of at least 0")
        if not (superpose_inputs or superpose_outputs):
            raise UserError(
                "superpose_inputs and superpose_outputs are both false, which leaves nothing to superpose: "
                "drop the callback for the baseline"
            )
        for name, value, kind in (("on_switch", on_switch, OnSwitch), ("reinitialize", reinitialize, Reinitialize)):
            if value not in get_args(kind):
                raise UserError(f"{name}={value!r}: choose {', '.join(get_args(kind))}")
        self.bag_size = bag_size
        self.step_ratio = step_ratio
        self.recovery_step = recovery_step
        self.weights = bag_weights(weights if superpose_outputs else "first_token", bag_size)
        self.superpose_inputs = superpose_inputs
        self.on_switch = on_switch
        self.reinitialize = reinitialize
        self.schedule = Schedule()
        self._stage: Stage | None = None
        self._hook = None
        self._saved_state: dict[str, Any] = {}

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
        recovery_step = self.recovery_step
        if recovery_step is None:
            recovery_step = round(self.step_ratio * trainer.max_steps)
        if recovery_step >= trainer.max_steps:
            raise UserError(
                f"recovery_step={recovery_step} leaves no recovery within trainer.max_steps={trainer.max_steps}:"
                " lower it (the paper recovers for 60 to 80 % of the steps) or train longer"
            )
        self.schedule = Schedule.superposition(self.bag_size, recovery_step, self.superpose_inputs)
        trainer.datamodule.set_schedule(self.schedule)
        if hasattr(pl_module, "learning_rate_restart_step"):
            begins_anew = self.on_switch == "restart" and len(self.schedule.stages) > 1
            pl_module.learning_rate_restart_step = recovery_step if begins_anew else None
        if callable(getattr(trainer.datamodule, "check", None)):
            trainer.datamodule.check(trainer.max_steps, trainer.accumulate_grad_batches, trainer.world_size)

    def _check_protocol(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        missing = []
        if not callable(getattr(data, "set_schedule", None)):
            missing.append(f"set_schedule(schedule) on the datamodule ({type(data).__name__})")
        if not callable(getattr(pl_module, "loss", None)):
            missing.append(f"a callable `loss(hidden, head_weight, targets)` on {type(pl_module).__name__}")
        if not callable(getattr(pl_module, "get_input_embeddings", None)):
            missing.append(f"get_input_embeddings() on {type(pl_module).__name__}")
        wanted = ["learning_rate_restart_step"] if self.on_switch == "restart" else []
        wanted += ["init_seed", "new_model", "get_output_embeddings"] if self.reinitialize != "none" else []
        missing += [f"{name} on {type(pl_module).__name__}" for name in wanted if not hasattr(pl_module, name)]
        if missing:
            raise UserError(
                f"SuperpositionCallback needs {'; '.join(missing)}: see the protocol in callbacks/superposition.py"
            )

    # While training -------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of another schedule; teach the embedding to take bags."""
        self._require_same_run()
        self._next_token_loss = pl_module.loss
        self._hook = superpose_embedding(pl_module.get_input_embeddings())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Enter the stage of this optimizer step, if it is another than the last batch's."""
        stage = self.schedule.stage(trainer.global_step)
        if stage is self._stage:
            return
        self._stage = stage
        if trainer.global_step == stage.first_step > 0:
            # A checkpoint of this step was saved before its first batch: whoever resumes it comes by here.
            self._begin_anew(trainer, pl_module)
        trainer.datamodule.bag_size = stage.bag_size
        _set_loss(pl_module, self._superposed_loss() if stage.superposed else self._next_token_loss)
        rank_zero_info(
            f"Step {trainer.global_step}: {'superposition' if stage.superposed else 'recovery'}, "
            f"{stage.bag_size} token{'s' if stage.bag_size > 1 else ''} per input position"
        )

    def _begin_anew(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The recovery step is about to begin."""
        if self.on_switch != "carry":
            for optimizer in trainer.optimizers:
                reset_optimizer(optimizer)
        if self.reinitialize == "embedding_and_head":
            reinitialize_embedding_and_head(pl_module, trainer.optimizers)

    def _superposed_loss(self) -> MultiHotCrossEntropy:
        base = self._next_token_loss
        if not isinstance(base, MultiHotCrossEntropy):
            base = MultiHotCrossEntropy()
        return replace(base, weights=self.weights, sliding=not self.superpose_inputs)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
            _set_loss(pl_module, self._next_token_loss)
            self._hook = self._stage = None
        if hasattr(pl_module, "learning_rate_restart_step"):
            pl_module.learning_rate_restart_step = None

    # Resuming -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": 2,
            "schedule": self.schedule.as_dict(),
            "weights": list(self.weights),
            "on_switch": self.on_switch,
            "reinitialize": self.reinitialize,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the checkpoint was trained with, for ``on_fit_start``: a validation may go on with any."""
        if state_dict["version"] == 1:  # which could do nothing else
            state_dict = state_dict | {"version": 2, "on_switch": "carry", "reinitialize": "none"}
        self._saved_state = state_dict

    def _require_same_run(self) -> None:
        for name, current in self.state_dict().items():
            saved = self._saved_state.get(name, current)
            if saved != current:
                raise UserError(
                    f"the checkpoint was trained with superposition {name} {saved}, this run has {current}: "
                    "resume with the same settings, or start a new run"
                )


def _set_loss(pl_module: LightningModule, loss: Callable) -> None:
    """Assign ``pl_module.loss``; torch does not let a plain callable replace a submodule."""
    if isinstance(pl_module.loss, nn.Module):
        del pl_module.loss
    pl_module.loss = loss
