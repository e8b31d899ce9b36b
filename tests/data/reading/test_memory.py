"""Reading goes through many shards, pass after pass, in the memory that it began with."""

import gc
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from recording import trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest, Shard, Split
from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME, INDEX_NAME, index_json, write_shard
from tst_lightning.schedule import Schedule

SHARDS, SHARD_TOKENS, ROW_TOKENS, BATCH = 100, 100, 5, 100
PASS_STEPS = SHARDS * SHARD_TOKENS // ROW_TOKENS // BATCH
PASSES = 8

MAPPED_SHARDS = 64
"""At most: a corpus may have more shards than a process may have files open."""


@pytest.fixture
def many_shards_dir(prepared_dir: Path) -> Path:
    """A prepared corpus of hundreds of small shards."""
    train = prepared_dir / "train"
    shutil.rmtree(train)
    train.mkdir()
    shards = []
    for number in range(SHARDS):
        ids = np.full(SHARD_TOKENS, number % 256, np.uint16)
        ids[-1] = 256
        shards.append(
            Shard(f"chunk-0-{number}.bin", SHARD_TOKENS, 1, write_shard(train / f"chunk-0-{number}.bin", ids))
        )
    np.full(SHARDS, SHARD_TOKENS, "<u4").tofile(train / DOCUMENT_ENDS_NAME)
    files = [(shard.file, SHARD_TOKENS) for shard in shards]
    (train / INDEX_NAME).write_text(index_json(files, SHARD_TOKENS, "uint16"))
    tokens = SHARDS * SHARD_TOKENS
    replace(Manifest.load(prepared_dir), train=Split(SHARDS, tokens, tokens, tuple(shards)), files={}).save(
        prepared_dir
    )
    return prepared_dir


class Watch(lightning.LightningModule):
    """Trains on nothing; at the end of each pass it looks at the memory of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.python_bytes: list[int] = []
        self.anonymous_bytes: list[int] = []
        self.mapped_shards = 0

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if (batch_idx + 1) % PASS_STEPS == 0:
            gc.collect()
            self.python_bytes.append(tracemalloc.get_traced_memory()[0])
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.anonymous_bytes.append(1024 * int(status["RssAnon"].split()[0]))
            self.mapped_shards = Path("/proc/self/maps").read_text().count("/train/chunk-")
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("schedule", "options"), [(None, {}), (Schedule.superposition(2, 1), {"streams": 4})], ids=["baseline", "recovery"]
)
def test_memory_does_not_grow_from_pass_to_pass(many_shards_dir: Path, tmp_path: Path, schedule, options) -> None:
    """After the second pass everything that is kept has been met. Two row numbers a row, kept, would be 0.3 MB."""
    data = TokenDataModule(str(many_shards_dir), ROW_TOKENS - 1, BATCH, num_workers=0, epochs=PASSES + 1, **options)
    module = Watch()
    tracemalloc.start()
    try:
        trainer(tmp_path, PASSES * PASS_STEPS, schedule, limit_val_batches=0).fit(module, data)
    finally:
        tracemalloc.stop()
    print(np.diff(module.python_bytes), np.diff(module.anonymous_bytes), module.mapped_shards)
    assert len(module.python_bytes) == PASSES
    assert module.python_bytes[-1] - module.python_bytes[1] < 100_000
    assert module.anonymous_bytes[-1] - module.anonymous_bytes[1] < 10_000_000
    assert module.mapped_shards <= MAPPED_SHARDS
