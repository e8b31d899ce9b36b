"""Counts of a run: from the schedule alone, and what is logged against the batches that were trained on."""

import csv

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from pseudo_corpus import pseudo_text_tokens, write_prepared
from runs import tiny_data, tiny_module, tiny_trainer

from callbacks import SuperpositionCallback
from tst_lightning.accounting import Counts
from tst_lightning.bags import IGNORE
from tst_lightning.module import CausalLMModule
from tst_lightning.schedule import Schedule


def test_counts_of_a_schedule_against_step_by_step():
    schedule = Schedule.superposition(4, 3)
    for steps in range(6):
        counts = Counts.of_schedule(schedule, 10, steps)
        assert counts.data_tokens == sum(10 * schedule.bag_size(step) for step in range(steps))
        assert counts.with_flops(7) == {
            "data_tokens": counts.data_tokens,
            "positions": 10 * steps,
            "flops": 70 * steps,
        }


class Counting(CausalLMModule):
    """Counts the targets of every micro-batch."""

    def training_step(self, batch, batch_idx):
        targets = batch.get("targets", batch["tokens"][:, 1:])
        self.targets = [*getattr(self, "targets", []), int((targets != IGNORE).sum())]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("options", [{}, {"packing": "best_fit", "packing_rows": 16}], ids=["contiguous", "packed"])
def test_the_data_tokens_that_are_logged_were_targets(tmp_path, options):
    random = np.random.default_rng(0)
    ids = pseudo_text_tokens(40_000, 0)
    ids[ids == 256] = 0
    ids[np.cumsum(random.integers(1, 100, 700))] = 256
    folder = write_prepared(tmp_path / "prepared", [ids], [pseudo_text_tokens(2_000, 1)])
    module = Counting(config=tiny_module().config)
    logger = CSVLogger(tmp_path, name="", version="")
    callback = SuperpositionCallback(bag_size=4, recovery_step=3)
    trainer = tiny_trainer(
        tmp_path, 6, [callback], accumulate_grad_batches=2, log_every_n_steps=1, logger=logger, limit_val_batches=0
    )
    trainer.fit(module, datamodule=tiny_data(folder, **options))
    with open(tmp_path / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["progress/data_tokens"]]
    assert {int(row["step"]): int(row["progress/data_tokens"]) for row in rows} == {
        step: sum(module.targets[: 2 * step]) for step in range(1, 7)
    }
