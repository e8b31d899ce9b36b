"""CausalLMModule: a LightningModule that trains any Hugging Face causal LM from scratch or from a checkpoint.

The model is not changed. Its body gives the last hidden state, its head's weight goes to the loss; what a
position reads and predicts is the batch's shape, ``(B, L+1, s)``. See ``bags`` for the idea.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import PretrainedConfig

from tst_lightning.accounting import flops_per_position
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.auxiliary.router import router_balance
from tst_lightning.bags import shift
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import Restart, WarmupStableDecay
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.modeling.building import new_model, new_vocabulary, pretrained_config, rescales_logits
from tst_lightning.modeling.compilation import Compilation, CompiledLayers, compiled_layers
from tst_lightning.modeling.configuring import configure
from tst_lightning.modeling.isolation import require_isolation
from tst_lightning.modeling.refusals import require_buildable
from tst_lightning.modeling.sharding import is_sharded
from tst_lightning.modeling.strategies import number_by_module
from tst_lightning.modeling.tensor_parallel import whole_weight
from tst_lightning.optimizers import identity, papers_adamw, parameter_groups, require_same_optimizers, saved_identities
from tst_lightning.progress import progress_after
from tst_lightning.rate_of_run import RateOfRun
from tst_lightning.step_losses import StepLosses


class CausalLMModule(L.LightningModule):
    """Trains a causal language model; next-token training unless a callback changes ``loss`` and the data.

    Logs ``train/loss`` (of the main head alone, so that it compares between runs with and without auxiliary losses),
    ``train/multi_token_loss`` and ``train/router_loss`` (what is added to it, weight included), all three means over
    the whole step of all processes, ``train/learning_rate`` and ``progress/*`` every ``log_every_n_steps`` optimizer
    steps without synchronising the device for them, and at each validation ``val/loss`` (next token of the main head,
    always, in nats), ``val/perplexity`` and ``val/bits_per_byte``.

    Args:
        config: a Hugging Face configuration, such as ``class_path: transformers.LlamaConfig``; the model starts
            from random weights.
        pretrained: instead of ``config``, a folder or hub name to start from.
        init_seed: seed of the random weights, apart from every other seed.
        optimizer: from parameter groups to an optimizer; by default the paper's AdamW (learning rate 1e-3, betas
            0.9 and 0.95, weight decay 0.1). The groups are those of ``optimizers.parameter_groups``: hidden matrices,
            embedding and head, and vectors, which come with ``weight_decay=0``.
        learning_rate_schedule: factor by optimizer step.
        loss_impl: ``chunked`` never holds all logits; ``eager`` does, and is its reference.
        compilation: whether training steps run the model's layers through torch.compile: ``none``; ``lazy``, as each
            shape of batch first comes by; ``ahead``, all the schedule's shapes before the first step.
        multi_token: heads that predict further ahead, and the weight of their loss; by default none.
        activation_checkpointing: whether a decoder layer keeps only its input for the backward pass and computes the
            rest again there: less memory for about a third more work, and the same weights.

    Raises:
        UserError: both or neither of ``config`` and ``pretrained``; ``output_router_logits`` (the loss that balances
            a mixture's experts) with a model whose loss is not known.
    """

    def __init__(
        self,
        config: PretrainedConfig | None = None,
        pretrained: str | None = None,
        init_seed: int = 0,
        optimizer: OptimizerCallable | None = None,
        learning_rate_schedule: WarmupStableDecay = WarmupStableDecay(),  # noqa: B008 (frozen)
        loss_impl: Literal["chunked", "eager"] = "chunked",
        compilation: Compilation = "none",
        multi_token: MultiToken | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if (config is None) == (pretrained is None):
            raise UserError(
                "a model needs exactly one of `model.config` (random weights) and `model.pretrained` "
                f"(a folder or hub name), got {'both' if config else 'neither'}"
            )
        self.config = pretrained_config(pretrained) if config is None else config
        router_balance(self.config)  # refuses what it does not know
        self.pretrained = pretrained
        self.init_seed = init_seed
        self.multi_token = multi_token
        self.optimizer_factory = optimizer or papers_adamw
        self.learning_rate_schedule = learning_rate_schedule
        self.learning_rate_restart: Restart | None = None  # SuperpositionCallback sets it, where it is asked to
        self.next_token_loss = MultiHotCrossEntropy(impl=loss_impl)
        self.loss = self.next_token_loss  # of a training step; SuperpositionCallback swaps it
        self.mean_val_loss = MeanMetric()
        self.compilation = compilation
        self.activation_checkpointing = activation_checkpointing
        self._compiled_layers: CompiledLayers | None = None
        self.model: nn.Module | None = None
        self._isolates_documents = False  # known in ``setup``
        self._step_losses = StepLosses()  # of the step that is under way
        self._flops: dict[int, int] = {}  # of a position, by the length of its row
        self._is_restored = False  # whether a fit goes on from a checkpoint
        self._saved_optimizers: list[dict[str, Any]] = []  # of that checkpoint

    # Model ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained, such as data that the model cannot read, before anything is built."""
        require_buildable(self, stage)
        self._is_restored, self._saved_optimizers, self._step_losses = False, [], StepLosses()
        self._isolates_documents = stage == "fit" and getattr(self.trainer.datamodule, "isolate_documents", False)

    def configure_model(self) -> None:
        """Build the model once, from ``init_seed`` whatever was drawn before.

        Raises:
            UserError: documents are to be isolated, and the model would mix them; multi-token prediction with a
                model that does more to its logits than multiply by the head.
        """
        configure(self)
        if self._isolates_documents:
            device = self.trainer.strategy.root_device.type
            require_isolation(self.model, device, self if is_sharded(self) else None)

    def new_model(self, seed: int) -> nn.Module:
        """Another model of this configuration with random weights from ``seed``; no other random numbers are drawn.

        If this one is sharded, only embedding and head have values: they are what may begin anew during a run.
        """
        return (new_vocabulary if is_sharded(self) else new_model)(self.config, seed)

    def on_fit_start(self) -> None:
        """Refuse a checkpoint of another optimizer, and models whose FLOPs cannot be counted; compile what is asked."""
        require_same_optimizers(self._saved_optimizers, self.trainer.optimizers)
        self._flops_per_position(self.trainer.datamodule.sequence_length)
        self._compiled_layers = compiled_layers(self)

    def on_train_start(self) -> None:
        """Have the rate of this run's schedule: a checkpoint's optimizer has that of a run of another length."""
        for scheduler in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if self._is_restored and isinstance(scheduler, RateOfRun):  # not one of a subclass' own
                scheduler.set_rates()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding that superposition acts on."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The head, whose weight the loss takes."""
        return self.model.get_output_embeddings()

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        loss: Callable[..., Tensor],
        position_ids: Tensor | None = None,
        target_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of ``(B, L, s)`` inputs against ``(B, L, s)`` target ids, with weights if they have their own.

        Where ``position_ids (B, L)`` restart, another document begins, which sees nothing of those before it.

        Returns:
            The loss of the main head; and by name, in training mode, what is to be added to it, with its weight.
        """
        if inputs.shape[-1] == 1:
            read = {"input_ids": inputs.squeeze(-1)}
        else:
            # Not every model takes ids of rank 3 (GPT-2 and OPT read their shape); all take embeddings.
            read = {"inputs_embeds": self.get_input_embeddings()(inputs)}
        # Models recognise packed documents by their positions only if there is neither a mask nor a cache.
        read["use_cache"] = False
        if position_ids is not None:
            read["position_ids"] = position_ids
        head = self.get_output_embeddings()
        head_weight = whole_weight(head.weight)
        if head.bias is None and not rescales_logits(self.config):
            output = self.model.base_model(**read)
            main = loss(output.last_hidden_state, head_weight, targets, target_weights)
        else:
            output = self.model(**read)
            main = loss.from_logits(output.logits, targets, target_weights)
        return main, self.auxiliary_losses(output, head_weight, loss, targets, target_weights, position_ids)

    # Training -------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of ``batch["tokens"]``, bags ``(B, L+1, s)``, with the auxiliary losses.

        A packed batch also has ``targets (B, L, s)`` and, if documents are isolated, ``position_ids (B, L)``; one
        whose targets are weighted each on its own, ``targets`` and ``target_weights``.
        """
        inputs, following = shift(batch["tokens"])
        optional = (batch.get(name) for name in ("position_ids", "target_weights"))
        with self._compiled_layers.training() if self._compiled_layers else nullcontext():
            loss, auxiliary = self(inputs, batch.get("targets", following), self.loss, *optional)
        self._step_losses.add({"train/loss": loss} | {f"train/{name}_loss": value for name, value in auxiliary.items()})
        return sum(auxiliary.values(), loss)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's losses, and where the run is: plain numbers, known without asking the device."""
        for name, value in self._step_losses.take(self.trainer.world_size).items():
            self.log(name, value, prog_bar=name == "train/loss")
        step = self.trainer.global_step
        if (step + 1) % self.trainer.log_every_n_steps == 0:
            rate = {"train/learning_rate": optimizer.param_groups[0]["lr"]}
            self._log_numbers(rate | self.progress(step + 1), step + 1)

    def configure_optimizers(self) -> dict[str, Any]:
        """The injected optimizer, and the schedule stepping once per optimizer step."""
        optimizer = self.optimizer_factory(parameter_groups(self))
        max_steps = self.trainer.max_steps
        factor, restart = self.learning_rate_schedule.factor, self.learning_rate_restart
        schedule = RateOfRun(optimizer, lambda step: factor(step, max_steps, restart))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation: always next-token ----------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Accumulate the next-token loss of single-token windows ``(B, L+1, 1)``."""
        inputs, targets = shift(batch["tokens"])
        loss, _ = self(inputs, targets, self.next_token_loss)
        self.mean_val_loss.update(loss, weight=targets.numel())

    def on_validation_epoch_end(self) -> None:
        """Log the mean next-token loss in nats, its exponential, and bits per byte of text."""
        loss = self.mean_val_loss.compute()
        self.mean_val_loss.reset()
        values = {"val/loss": loss, "val/perplexity": loss.exp()}
        bytes_per_token = getattr(self.trainer.datamodule, "bytes_per_token", None)
        if bytes_per_token:
            values["val/bits_per_byte"] = loss / math.log(2) / bytes_per_token
        fitting = self.trainer.state.fn == "fit"
        self.log_dict(values, logger=not fitting, sync_dist=True)
        if fitting and not self.trainer.sanity_checking:
            # Lightning would file what is logged while validating one step early.
            step = self.trainer.global_step
            self._log_numbers({name: float(value) for name, value in values.items()} | self.progress(step), step)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    # Accounting -----------------------------------------------------------------------------------------

    def progress(self, steps: int) -> dict[str, int]:
        """``progress/*`` after ``steps`` optimizer steps: data tokens, positions, FLOPs; bag size and phase.

        Counts over all devices, exact; what the data module may know better, see ``progress_after``.
        """
        values = progress_after(steps, self.trainer, self._flops_per_position)
        return {f"progress/{name}": value for name, value in values.items()}

    def _flops_per_position(self, length: int) -> int:
        if length not in self._flops:
            self._flops[length] = flops_per_position(self.model, length, self.auxiliary_losses.matrix_parameters)
        return self._flops[length]

    def _log_numbers(self, numbers: dict[str, float], step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=step)

    # Checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the model without this class, its configuration and data; and which optimizer it had."""
        checkpoint["hugging_face_config"] = self.config.to_dict()
        checkpoint["data_dir"] = str(getattr(self.trainer.datamodule, "data_dir", ""))
        checkpoint["optimizers"] = [identity(optimizer) for optimizer in self.trainer.optimizers]
        number_by_module(checkpoint, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which optimizer a fit goes on with, for ``on_fit_start``; a validation takes any checkpoint."""
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._is_restored, self._saved_optimizers = True, saved_identities(checkpoint)
            if self.trainer.strategy.restore_checkpoint_after_setup:  # sharded ones: ``on_fit_start`` has been
                require_same_optimizers(self._saved_optimizers, self.trainer.optimizers)
