"""LossGuard: a loss that is no number ends the run before it does harm; one that jumps is told of.

Both name the step, the micro-batch, its text and the learning rate. What the callback needs: a ``training_step`` whose
loss is what the step minimises. What it uses, where there is one: the data module's ``plan`` and ``corpora`` (to name
the text) and its ``schedule`` (a change of stage changes the loss, which is no spike).
"""

import json
import math
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.loss_spikes import LEAST_STEPS, SpikeDetector
from callbacks.ngram_targets import NgramTargets
from callbacks.superposition import SuperpositionCallback
from tst_lightning.data.reading.options import replicas
from tst_lightning.data.reading.spans import described, text_of_batch
from tst_lightning.errors import UserError

Check = Literal["auto", "before_step", "one_step_later"]
LOG_NAME = "loss_guard.jsonl"
STATE_NAME = "loss_guard"


class _Step(NamedTuple):
    """The losses of an optimizer step on their way to the host."""

    step: int
    learning_rate: float
    losses: Tensor
    """``(ranks, micro-batches)``, fp32, on the host once ``copied``."""
    copied: Any
    """A CUDA event, or None."""


class LossGuard(Callback):
    """Stops a run whose training loss is NaN or infinite, and warns once of each spike.

    All ranks see the losses of all ranks, so they stop at the same step with the same message. Every checkpoint is
    refused whose weights are not all finite, or that would be saved after such a loss: the last one on the disk stays
    a good one. Every stop and every spike is also a line of ``loss_guard.jsonl`` in the run's folder, with all rows.

    A spike is a step whose mean loss exceeds the median of the steps before it by ``spike_threshold`` spreads
    (1.4826 times their median absolute deviation, at least 1 % of the median). Only steps of stages with the same bag
    size and row length are compared, so the expected jump at a switch is none; nothing is compared before 50 steps of
    a stage, nor while ``SuperpositionCallback`` interpolates its weights.

    Args:
        check: when losses are looked at. ``before_step``: before the optimizer uses the gradient, for which a GPU's
            host waits. ``one_step_later``: while the next step is under way, so that nothing waits; the weights in
            memory may be bad by then, checkpoints are not. ``auto``: the first on a CPU, the second elsewhere.
        spike_threshold: spreads above the median that make a spike; null to warn of none.
        window_steps: steps before it that a step is compared with, at most.

    Raises:
        UserError: a value out of range (at construction); a loss or a weight that is not finite.
    """

    def __init__(self, check: Check = "auto", spike_threshold: float | None = 10.0, window_steps: int = 100) -> None:
        if check not in get_args(Check):
            raise UserError(f"check={check!r}: choose {', '.join(get_args(Check))}")
        if spike_threshold is not None and not 0 < spike_threshold < math.inf:
            raise UserError(f"spike_threshold={spike_threshold}: give a positive number, such as 10, or null")
        if isinstance(window_steps, bool) or not isinstance(window_steps, int) or window_steps < LEAST_STEPS:
            raise UserError(f"window_steps={window_steps!r}: give an integer of at least {LEAST_STEPS}")
        self.check = check
        self.spike_threshold = spike_threshold
        self.window_steps = window_steps
        self._begin()

    def _begin(self) -> None:
        self._detector = SpikeDetector(self.spike_threshold or math.inf, self.window_steps)
        self._losses: list[Tensor] = []  # of this step's micro-batches, on the device
        self._unseen: deque[_Step] = deque()
        self._refusal: UserError | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing of an earlier fit, unless its Trainer goes on."""
        if stage == "fit" and not trainer.global_step:
            self._begin()

    # The losses -----------------------------------------------------------------------------------------

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep a micro-batch's loss, which Lightning has divided by their number and scaled for fp16."""
        loss = loss.detach().float() * trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))
        self._losses.append(loss)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the losses of this step, or of the one before; raises ``UserError``."""
        if not self._losses:
            return
        losses, self._losses = torch.stack(self._losses), []
        losses = _of_all_ranks(trainer, losses)
        self._unseen.append(_Step(trainer.global_step, optimizer.param_groups[0]["lr"], *_to_host(losses)))
        waits = self.check == "before_step" or (self.check == "auto" and losses.device.type == "cpu")
        self._look(trainer, pl_module, leave=0 if waits else 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, pl_module: LightningModule, leave: int = 0) -> None:
        """Judge the steps that nobody has looked at but the last ``leave``."""
        while len(self._unseen) > leave:
            step = self._unseen.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            losses = {
                (rank, number): loss
                for rank, of_rank in enumerate(step.losses.tolist())
                for number, loss in enumerate(of_rank)
            }
            for place, loss in losses.items():
                if not math.isfinite(loss):
                    self._refuse(trainer, pl_module, step, *place)
            self._look_for_spike(trainer, step, losses)

    def _look_for_spike(self, trainer: Trainer, step: _Step, losses: dict[tuple[int, int], float]) -> None:
        spike = self._detector.look(sum(losses.values()) / len(losses), _regime(trainer, step.step))
        if spike is None:
            return
        worst = max(losses, key=losses.__getitem__)
        facts, text = _facts(trainer, step, *worst)
        _log(trainer, {"event": "spike", **facts, "mean": spike.loss, "usual": spike.median, "spread": spike.spread})
        usual = f"{spike.median:.4f} +- {spike.spread:.4f} is usual"
        rank_zero_warn(
            f"the training loss jumps to {spike.loss:.4f} at step {step.step} ({usual}); the learning rate is "
            f"{step.learning_rate:.3g}. The greatest loss, {losses[worst]:.4f}, is that of {_place(facts)}{text}"
        )

    def _refuse(self, trainer: Trainer, pl_module: LightningModule, step: _Step, rank: int, number: int) -> None:
        facts, text = _facts(trainer, step, rank, number)
        _log(trainer, {"event": "not finite", **facts})
        done = trainer.global_step > step.step
        harm = "the optimizer has used it" if done else "the optimizer has not used it"
        if not done and _bad_weight(trainer, pl_module):
            harm += ", but the weights are not finite either: the gradient of an earlier step was not"
        self._refusal = UserError(
            f"the training loss is {facts['loss']} at step {step.step}, in {_place(facts)}; the learning rate is "
            f"{step.learning_rate:.3g}; {harm}, and no checkpoint has been saved since{text}. {_remedy(trainer)}"
        )
        raise self._refusal

    # Checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that are no numbers; keep what is usual of the loss."""
        if self._refusal is not None:
            raise self._refusal
        self._look(trainer, pl_module)
        if name := _bad_weight(trainer, pl_module):
            self._refusal = UserError(
                f"the weights are not finite after step {trainer.global_step - 1} ({name}), though its loss is: the "
                f"gradient was not. This checkpoint is not saved. {_remedy(trainer)}"
            )
            raise self._refusal
        # Not as the callback's own state, which Lightning asks for before this.
        checkpoint[STATE_NAME] = {"version": 1, **self._detector.state_dict()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with what is usual of the loss; without it, a run begins to compare anew."""
        state = checkpoint.get(STATE_NAME)
        if state is not None and trainer.state.fn == "fit":
            self._detector.load_state_dict(state)


def _of_all_ranks(trainer: Trainer, values: Tensor) -> Tensor:
    """``(ranks, n)`` of every rank's ``(n,)``; on a GPU the host does not wait."""
    if trainer.world_size == 1:
        return values.view(1, -1)
    # Not strategy.all_gather, which goes through a deprecated function that can be differentiated.
    parts = [torch.empty_like(values) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(parts, values)
    return torch.stack(parts)


def _to_host(losses: Tensor) -> tuple[Tensor, Any]:
    """The losses on the host, perhaps later: once the event has come."""
    if losses.device.type != "cuda":
        return losses.cpu(), None
    host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
    host.copy_(losses, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


def _regime(trainer: Trainer, step: int) -> str | None:
    """The same of two steps whose losses compare; None if a step's losses do with none."""
    parts: list[Any] = []
    schedule = getattr(trainer.datamodule, "schedule", None)
    if schedule is not None:
        stage = schedule.stage(step)
        parts += [stage.bag_size, stage.target_bag_size, stage.row_divisor, stage.sequence_length]
    for callback in trainer.callbacks:
        if isinstance(callback, SuperpositionCallback) and callback.next_token_share(step) > 0:
            return None
        if isinstance(callback, NgramTargets):
            alpha = callback.alpha(trainer.max_steps)
            parts.append((step >= alpha.first_step) + (step >= alpha.last_step))
    return "/".join(map(str, parts))


def _facts(trainer: Trainer, step: _Step, rank: int, number: int) -> tuple[dict[str, Any], str]:
    """What is known of a micro-batch, and its text as the end of a sentence."""
    world_size, _ = replicas(trainer)
    replica = rank * world_size // trainer.world_size  # ranks that share a model's tensors read the same
    micro = step.step * trainer.accumulate_grad_batches + number
    rows = text_of_batch(trainer.datamodule, micro, replica)
    loss = step.losses[rank, number].item()
    facts = {
        "step": step.step, "micro_batch": micro, "rank": rank, "ranks": trainer.world_size,
        "loss": loss if math.isfinite(loss) else str(loss), "learning_rate": step.learning_rate,
        "rows": [[span._asdict() for span in row] for row in rows],
    }  # fmt: skip
    where = Path(trainer.default_root_dir) / LOG_NAME
    return facts, f". It read {described(rows)}; all its text is named in '{where}'" if rows else ""


def _place(facts: dict[str, Any]) -> str:
    rank = f", rank {facts['rank']}" if facts["ranks"] > 1 else ""
    return f"micro-batch {facts['micro_batch']} of the run{rank}"


def _log(trainer: Trainer, facts: dict[str, Any]) -> None:
    if trainer.is_global_zero:
        path = Path(trainer.default_root_dir) / LOG_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(facts) + "\n")


def _bad_weight(trainer: Trainer, pl_module: LightningModule) -> str:
    """The name of a parameter that is not finite on some rank, or nothing. All ranks have to ask."""
    names, finite = [], []
    for name, parameter in pl_module.named_parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        names.append(name)
        finite.append(torch.isfinite(local.detach()).all())
    if not finite:
        return ""
    bad = ~torch.stack([flag.to(finite[0].device) for flag in finite])
    bad = _of_all_ranks(trainer, bad.int()).amax(0)
    return next((name for name, flag in zip(names, bad.tolist(), strict=True) if flag), "")


def _remedy(trainer: Trainer) -> str:
    """Where to go on, and with what."""
    paths = [getattr(callback, name, "") for callback in trainer.checkpoint_callbacks
             for name in ("last_model_path", "best_model_path")]  # fmt: skip
    there = [str(path) for path in (*paths, trainer.ckpt_path) if path and ("://" in str(path) or Path(path).exists())]
    what = "a lower learning rate, a smaller trainer.gradient_clip_val or more precision"
    if not there:
        return f"No checkpoint has been saved: start again with {what}"
    return f"The last good checkpoint is '{there[0]}': go on from it with {what}"
