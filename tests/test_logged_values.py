"""What a run logs: tokens, positions, FLOPs, validation losses."""

import math

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_module, tiny_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from callbacks import SuperpositionCallback
from tst_lightning.accounting import flops_per_position
from tst_lightning.module import CausalLMModule


class Remembering(CausalLMModule):
    """Keeps the loss of each micro-batch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.micro_losses.append(loss.item())
        return loss


@pytest.fixture
def logged(prepared_dir, tmp_path):
    """Scalars of a run with both phases under accumulation: {tag: {step: value}}, and its module."""
    module = Remembering(config=tiny_llama())
    module.micro_losses = []
    trainer = tiny_trainer(
        tmp_path,
        max_steps=6,
        callbacks=[SuperpositionCallback(bag_size=4, recovery_step=2)],
        accumulate_grad_batches=2,
        val_check_interval=4,
        log_every_n_steps=1,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
    )
    trainer.fit(module, datamodule=tiny_data(prepared_dir))
    events = EventAccumulator(str(tmp_path)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}, module


def test_logs_count_what_was_read_and_paid_for(logged):
    scalars, module = logged
    positions = ROWS * 2 * SEQUENCE_LENGTH
    per_position = flops_per_position(module.model, SEQUENCE_LENGTH)
    for step in range(1, 7):
        tokens = positions * sum(4 if s < 2 else 1 for s in range(step))
        assert scalars["progress/data_tokens"][step] == tokens
        assert scalars["progress/positions"][step] == positions * step
        assert scalars["progress/flops"][step] == pytest.approx(positions * step * per_position, rel=1e-6)
        assert scalars["progress/bag_size"][step] == (4 if step <= 2 else 1)
        assert scalars["progress/superposed"][step] == (1 if step <= 2 else 0)
    assert sorted(scalars["train/learning_rate"]) == [1, 2, 3, 4, 5, 6]


def test_the_training_loss_is_that_of_the_whole_step(logged):
    """As Lightning counts the steps of what a module logs: from 0 on."""
    scalars, module = logged
    assert len(module.micro_losses) == 12
    means = {step: sum(module.micro_losses[2 * step : 2 * step + 2]) / 2 for step in range(6)}
    assert scalars["train/loss"] == pytest.approx(means, rel=1e-6)


def test_validation_is_next_token_in_both_phases(logged):
    scalars, _ = logged
    assert sorted(scalars["val/loss"]) == [2, 4, 6]
    for step, loss in scalars["val/loss"].items():
        assert scalars["val/perplexity"][step] == pytest.approx(math.exp(loss), rel=1e-5)
        # The pseudo text has one byte per token.
        assert scalars["val/bits_per_byte"][step] == pytest.approx(loss / math.log(2), rel=1e-5)


def test_val_loss_is_the_mean_over_the_windows(prepared_dir, tmp_path):
    module, data = tiny_module(), tiny_data(prepared_dir, validation_windows=7)
    trainer = tiny_trainer(tmp_path, max_steps=1)
    trainer.validate(module, datamodule=data, verbose=False)
    losses = []
    for batch in data.val_dataloader():
        tokens = batch["tokens"].squeeze(-1).long()
        logits = module.model(tokens[:, :-1]).logits.double()
        losses += F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").flatten().tolist()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert len(losses) == 7 * SEQUENCE_LENGTH
