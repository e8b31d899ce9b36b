"""How well the order of the training text is mixed, against a uniform shuffle of each window of shards.

Every token of this corpus is its own position in the text, so a batch says where it was read. Thresholds are
five standard deviations of a uniform shuffle, unless a test says otherwise; the seeds are fixed.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
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

SHARDS, SHUFFLE_SHARDS, SHARD_ROWS, ROW_TOKENS, BATCH = 32, 8, 248, 8, 16
ROWS, WINDOW_ROWS = SHARDS * SHARD_ROWS, SHUFFLE_SHARDS * SHARD_ROWS
BAG, SWITCH = 4, 20
MIXED_MICRO_BATCHES = 16
"""Rows of one group are spread over this many micro-batches."""


@pytest.fixture(scope="module")
def positions_dir(prepared_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus whose train split is 0, 1, 2, ... in shards of equal length."""
    folder = Path(shutil.copytree(prepared_source, tmp_path_factory.mktemp("positions") / "prepared"))
    train, tokens = folder / "train", SHARD_ROWS * ROW_TOKENS
    shutil.rmtree(train)
    train.mkdir()
    shards = []
    for number in range(SHARDS):
        ids = np.arange(number * tokens, (number + 1) * tokens, dtype=np.uint16)
        file = f"chunk-0-{number}.bin"
        shards.append(Shard(file, tokens, 1, write_shard(train / file, ids)))
    np.full(SHARDS, tokens, "<u4").tofile(train / DOCUMENT_ENDS_NAME)
    (train / INDEX_NAME).write_text(index_json([(shard.file, tokens) for shard in shards], tokens, "uint16"))
    split = Split(SHARDS, SHARDS * tokens, SHARDS * tokens, tuple(shards))
    manifest = Manifest.load(folder)
    tokenizer = replace(manifest.tokenizer, vocab_size=SHARDS * tokens)
    replace(manifest, train=split, tokenizer=tokenizer, files={}).save(folder)
    return folder


class Reader(lightning.LightningModule):
    """Trains on nothing; keeps the position, in rows, of every row of single tokens that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[np.ndarray] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        tokens = batch["tokens"]
        if tokens.shape[-1] == 1:
            first = tokens[:, 0, 0].numpy()
            np.testing.assert_array_equal(tokens[..., 0], first[:, None] + np.arange(ROW_TOKENS))
            self.batches.append(first // ROW_TOKENS)
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def read(folder: Path, seed: int, steps: int, schedule: Schedule | None = None, **options) -> np.ndarray:
    """What a run reads after superposition, (micro-batches, BATCH)."""
    data = TokenDataModule(
        str(folder), ROW_TOKENS - 1, BATCH, seed=seed, num_workers=0, shuffle_shards=SHUFFLE_SHARDS, **options
    )
    module = Reader()
    trainer(folder.parent, steps, schedule, limit_val_batches=0).fit(module, data)
    return np.stack(module.batches)


@pytest.fixture(scope="module", params=[0, 1], ids=["seed-0", "seed-1"])
def pass_over_the_text(request, positions_dir: Path) -> np.ndarray:
    """The whole text in the order of one pass without superposition, (micro-batches, BATCH)."""
    return read(positions_dir, request.param, ROWS // BATCH)


def neighbour_distances(batches: np.ndarray) -> np.ndarray:
    """For all neighbours in the text of which both were read: how many batches apart."""
    batch_of = np.full(ROWS, -1)
    batch_of[batches] = np.arange(len(batches))[:, None]
    known = (batch_of[:-1] >= 0) & (batch_of[1:] >= 0)
    return np.abs(np.diff(batch_of))[known]


def in_same_batch(batches: np.ndarray) -> float:
    return float(np.mean(neighbour_distances(batches) == 0))


def in_adjacent_batches(batches: np.ndarray) -> float:
    return float(np.mean(neighbour_distances(batches) == 1))


def follow_each_other(batches: np.ndarray) -> float:
    return float(np.mean(np.abs(np.diff(batches.ravel())) == 1))


@cache
def by_chance(statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Mean and standard deviation over passes in which numpy shuffles every window."""
    generator = np.random.default_rng(1234)
    windows = np.arange(ROWS).reshape(-1, WINDOW_ROWS)
    values = [statistic(generator.permuted(windows, axis=1).reshape(-1, BATCH)) for _ in range(100)]
    return float(np.mean(values)), float(np.std(values))


@pytest.mark.parametrize("statistic", [in_same_batch, in_adjacent_batches, follow_each_other])
def test_neighbours_meet_no_more_than_by_chance(pass_over_the_text: np.ndarray, statistic) -> None:
    mean, deviation = by_chance(statistic)
    assert statistic(pass_over_the_text) < mean + 5 * deviation


def test_a_window_is_read_in_an_order_of_its_own(pass_over_the_text: np.ndarray) -> None:
    """No trace of the text's order in the reading order, and no two windows are shuffled alike.

    Of n ranks, a uniform shuffle displaces each by n/3 on average, standard deviation sqrt(2n/45) (Diaconis and
    Graham 1977), and two orders correlate by 1/sqrt(n - 1), with mean 0.
    """
    windows = pass_over_the_text.reshape(-1, WINDOW_ROWS)
    orders = [window.argsort().argsort() for window in windows]
    n = WINDOW_ROWS
    for order in orders:
        displacement = np.abs(order - np.arange(n)).mean()
        assert abs(displacement - n / 3) < 5 * np.sqrt(2 * n / 45)
    correlations = np.corrcoef([np.arange(n), *orders])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 5 / np.sqrt(n - 1)


def test_a_window_covers_only_its_shards(pass_over_the_text: np.ndarray) -> None:
    """Window after window reads all of its shards and no other, and the shards themselves come in random order."""
    windows = pass_over_the_text.reshape(-1, WINDOW_ROWS)
    shards = [sorted(set(window // SHARD_ROWS)) for window in windows]
    assert all(len(found) == SHUFFLE_SHARDS for found in shards)
    assert sorted(shard for found in shards for shard in found) == list(range(SHARDS))
    assert all(len(set(window)) == WINDOW_ROWS for window in windows)
    assert shards != [list(range(i, i + SHUFFLE_SHARDS)) for i in range(0, SHARDS, SHUFFLE_SHARDS)]


def most_shards_in_a_stretch(rows: np.ndarray, stretch_rows: int) -> int:
    shards, counts, most = rows // SHARD_ROWS, np.zeros(SHARDS, int), 0
    for end, shard in enumerate(shards):
        counts[shard] += 1
        if end >= stretch_rows:
            counts[shards[end - stretch_rows]] -= 1
        most = max(most, int((counts > 0).sum()))
    return most


def test_any_stretch_touches_few_shards(pass_over_the_text: np.ndarray) -> None:
    """A stretch as long as a window lies in two windows at most: what a cache of shards has to hold."""
    assert most_shards_in_a_stretch(pass_over_the_text.ravel(), WINDOW_ROWS) <= 2 * SHUFFLE_SHARDS


def test_another_pass_and_another_seed_are_other_orders(positions_dir: Path) -> None:
    two_passes = [read(positions_dir, seed, 2 * ROWS // BATCH, epochs=2) for seed in (0, 1)]
    passes = [rows for batches in two_passes for rows in batches.reshape(2, ROWS)]
    assert all(len(set(rows)) == ROWS for rows in passes)
    assert len({frozenset(rows[:WINDOW_ROWS] // SHARD_ROWS) for rows in passes}) == 4
    orders_of_a_shard = [rows[rows < SHARD_ROWS].argsort() for rows in passes]
    assert np.abs(np.corrcoef(orders_of_a_shard) - np.eye(4)).max() < 5 / np.sqrt(SHARD_ROWS - 1)


@pytest.fixture(scope="module", params=["recovery", "baseline"])
def grouped(request, positions_dir: Path) -> np.ndarray:
    """Rows read in groups of BAG neighbours: in recovery after superposition, and by a baseline of the same order."""
    if request.param == "baseline":
        return read(positions_dir, 3, 464, rows_per_group=BAG)
    return read(positions_dir, 3, SWITCH + 400, Schedule.superposition(BAG, SWITCH))


def test_rows_of_a_group_are_spread(grouped: np.ndarray) -> None:
    """They are read within 16 micro-batches of one another, which must not bring them into the same batch more than
    chance would in a whole window, nor one right after the other. In batches that follow each other they are a little
    more often; all of them there would be 40 times as often as by chance, three times is what we allow.
    """
    for statistic in (in_same_batch, follow_each_other):
        mean, deviation = by_chance(statistic)
        assert statistic(grouped) < mean + 5 * deviation
    assert in_adjacent_batches(grouped) < 3 * by_chance(in_adjacent_batches)[0]


def test_groups_stay_within_the_window(grouped: np.ndarray) -> None:
    """Every row once, and no more shards at a time than without groups but for what is being mixed."""
    rows = grouped.ravel()
    assert len(set(rows)) == len(rows)
    mixed_rows = 2 * MIXED_MICRO_BATCHES * BATCH
    assert most_shards_in_a_stretch(rows, WINDOW_ROWS - mixed_rows) <= 2 * SHUFFLE_SHARDS
