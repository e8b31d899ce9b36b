"""Batches, checks and validation windows of the data module."""

import json
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from recording import Recorder, fit, trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.reading.prepared import PreparedCorpus, require_cache
from tst_lightning.data.reading.validation import validation_batches, window_counts
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

LENGTH = 16
ROW = LENGTH + 1


def shard(folder: Path, split: str, index: int) -> np.ndarray:
    """A shard's tokens, read without litdata: three words of header, then the tokens."""
    name = json.loads((folder / split / "index.json").read_text())["chunks"][index]["filename"]
    return np.fromfile(folder / split / name, np.uint16, offset=12)


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(
        str(folder), LENGTH, **{"batch_size": 4, "num_workers": 0, "validation_windows": 10, **options}
    )


def attach(data: TokenDataModule, folder: Path, max_steps: int = 10, **options) -> TokenDataModule:
    """The data module as it is in a fit, after the callback's setup."""
    run = trainer(folder, max_steps, **options)
    run.strategy.connect(Recorder())
    run.state.fn = "fit"
    run.datamodule = data
    data.trainer = run
    data.setup("fit")
    return data


def test_batches_are_the_planned_tokens_folded_into_bags(prepared_dir: Path, tmp_path: Path) -> None:
    data = attach(make_data(prepared_dir, seed=3), tmp_path)
    data.set_schedule(Schedule.superposition(4, 3))
    for batch in data.train_dataloader():
        micro, bag = batch["micro"], 4 if batch["micro"] < 3 else 1
        assert batch["tokens"].dtype == torch.int32
        assert batch["tokens"].shape == (4, ROW, bag)
        for bags, (span,) in zip(batch["tokens"], data._train_plan.batch(micro, 0), strict=True):
            tokens = shard(prepared_dir, "train", span.shard)[span.first_token : span.first_token + ROW * bag]
            for position in range(ROW):
                assert bags[position].tolist() == tokens[position * bag : (position + 1) * bag].tolist()
    assert micro == 9


def test_loader_is_as_long_as_the_run_and_starts_at_the_current_step(prepared_dir: Path, tmp_path: Path) -> None:
    data = attach(make_data(prepared_dir), tmp_path, max_steps=6, accumulate_grad_batches=3)
    loader = data.train_dataloader()
    progress = data.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
    progress.optimizer.step.total.completed = 4  # restored after the loader was built
    assert data.trainer.global_step == 4
    assert len(loader) == 18
    assert [batch["micro"] for batch in loader] == list(range(12, 18))


def test_manifest_numbers(prepared_dir: Path) -> None:
    data = make_data(prepared_dir)
    assert data.vocab_size == 257
    assert data.bytes_per_token == 1.0
    assert data.manifest == Manifest.load(prepared_dir)
    assert (data.bag_size, data.schedule, data.sequence_length) == (1, Schedule(), LENGTH)


def test_validation_windows_do_not_depend_on_the_arm(prepared_dir: Path, tmp_path: Path) -> None:
    """Evenly spaced, the first at the start, single tokens, whatever schedule and batch size."""
    expected = [shard(prepared_dir, "validation", i) for i in (0, 1)]
    windows = [tokens[i * ROW : (i + 1) * ROW] for tokens in expected for i in range(len(tokens) // ROW)]
    wanted = [windows[i * len(windows) // 10].tolist() for i in range(10)]
    for options in ({}, {"batch_size": 3, "seed": 8, "rows_per_group": 4}, {"validation_batch_size": 7}):
        data = attach(make_data(prepared_dir, **options), tmp_path)
        data.set_schedule(Schedule.superposition(4, 3) if "seed" in options else Schedule())
        batches = list(data.val_dataloader())
        assert {batch["tokens"].shape[1:] for batch in batches} == {(ROW, 1)}
        assert [row.flatten().tolist() for batch in batches for row in batch["tokens"]] == wanted
        assert max(len(batch["tokens"]) for batch in batches) <= data.validation_batch_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("windows", [3, 10, 33, 1000])
def test_validation_windows_are_shared_out_without_repeats(windows: int, batch_size: int, world_size: int) -> None:
    shard_tokens = (20 * ROW + 5, 3, 17 * ROW)
    counts = window_counts([shard_tokens], [Fraction(1)], ROW, windows)
    deal = partial(validation_batches, {"corpus": shard_tokens}, counts, ROW, batch_size)
    ranks = [deal(world_size, rank) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    spans = [span for batches in ranks for batch in batches for (span,) in batch]
    assert len(spans) == len(set(spans)) == min(windows, 37)
    assert all(span.first_token + ROW <= shard_tokens[span.shard] for span in spans)
    assert all(batch for batches in ranks for batch in batches)
    assert spans == [span for batch in deal(1, 0) for (span,) in batch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_switch_falls_on_the_step_under_lightning(prepared_dir: Path, tmp_path: Path, num_workers: int) -> None:
    """Prefetching workers, accumulation and validation in between; nothing read twice."""
    data = make_data(prepared_dir, num_workers=num_workers)
    run = trainer(tmp_path, 12, Schedule.superposition(4, 5), accumulate_grad_batches=2, val_check_interval=3)
    module = fit(data, run)
    assert module.order == list(range(24))
    assert [module.shapes[micro][2] for micro in range(24)] == [4] * 10 + [1] * 14
    digests = [digest for rows in module.rows.values() for digest in rows]
    assert len(digests) == len(set(digests)) == 24 * 4
    assert len(module.validation) == 2 + 8 * 3  # sanity check; 10 windows in batches of 4
    assert run.global_step == 12
    assert run.current_epoch == 1


def test_too_few_tokens_are_refused_with_a_sufficient_number_of_epochs(prepared_dir: Path, tmp_path: Path) -> None:
    schedule = Schedule.superposition(4, 200)
    message = r"800 steps need [\d,]+ tokens of '.*', which has 91,\d+ for each of epochs=1 .*: set "
    message += r"epochs=2 to repeat the text, lower max_steps \(and with it "
    run = trainer(tmp_path, 800, schedule)
    with pytest.raises(UserError, match=message):
        fit(make_data(prepared_dir), run)
    data = make_data(prepared_dir, epochs=2)
    data.set_schedule(schedule)
    data.check(800, 1, 1)


def test_text_for_no_step_at_all(prepared_dir: Path) -> None:
    with pytest.raises(UserError, match="enough for 0 steps: set epochs=2 to repeat the text, or prepare more text"):
        make_data(prepared_dir, batch_size=6_000).check(1, 1, 1)


def test_too_few_tokens_are_refused_without_a_callback_before_anything_runs(prepared_dir: Path, tmp_path: Path) -> None:
    module = Recorder()
    with pytest.raises(UserError, match="set epochs=2 to repeat the text"):
        trainer(tmp_path, 2_000).fit(module, make_data(prepared_dir))
    assert module.order == module.validation == []


def test_repeated_passes_reread_the_text_in_another_order(prepared_dir: Path, tmp_path: Path) -> None:
    data = attach(make_data(prepared_dir, epochs=2, batch_size=90), tmp_path, max_steps=120)
    plan_groups = sum(tokens // ROW for tokens in data.manifest.train.shard_tokens)
    data.trainer.fit_loop.epoch_loop.max_steps = 2 * plan_groups // 90
    rows = [tuple(row.flatten().tolist()) for batch in data.train_dataloader() for row in batch["tokens"]]
    first, second = rows[:plan_groups], rows[plan_groups:]
    assert set(second) <= set(first)
    assert first[: len(second)] != second


@pytest.mark.parametrize(
    ("options", "run_options", "message"),
    [
        ({"rows_per_group": 3}, {"max_steps": 10}, "rows_per_group=3 is not divisible by the bag size 4"),
        ({}, {"max_steps": -1, "max_epochs": 1}, "Trainer has max_steps=-1: set trainer.max_steps"),
        ({"streams": 3}, {"max_steps": 10}, "streams=3"),
        ({}, {"max_steps": 10, "overfit_batches": 1}, "overfit_batches=1 is not supported"),
        ({}, {"max_steps": 10, "limit_train_batches": 3, "max_epochs": 4}, "limit_train_batches=3 .*max_steps"),
    ],
)
def test_impossible_runs_are_refused(
    prepared_dir: Path, tmp_path: Path, options: dict, run_options: dict, message: str
) -> None:
    module = Recorder()
    run = trainer(tmp_path, run_options.pop("max_steps"), Schedule.superposition(4, 5), **run_options)
    with pytest.raises(UserError, match=message):
        run.fit(module, make_data(prepared_dir, **options))
    assert module.order == []


@pytest.mark.parametrize(
    ("option", "value", "minimum"),
    [("batch_size", 0, 1), ("epochs", 0, 1), ("seed", -1, 0), ("num_workers", -1, 0), ("rows_per_group", 0, 1)],
)
def test_options_out_of_range_are_refused(prepared_dir: Path, option: str, value: int, minimum: int) -> None:
    with pytest.raises(UserError, match=f"{option} is at least {minimum}, got {value}"):
        make_data(prepared_dir, **{option: value})


def test_no_prepared_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared corpus"):
        make_data(tmp_path)


def test_validation_split_without_a_window(prepared_dir: Path, tmp_path: Path) -> None:
    data = TokenDataModule(str(prepared_dir), 6_000, 1, num_workers=0, epochs=9)
    run = trainer(tmp_path, 1)
    with pytest.raises(UserError, match=r"9,210 tokens in 2 shards, less than a window of 6001"):
        run.fit(Recorder(), data)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_damaged_corpora_are_refused(prepared_dir: Path, tmp_path: Path, split: str) -> None:
    next((prepared_dir / split).glob("*.bin")).unlink()
    with pytest.raises(UserError, match="lacks 1 of"):
        attach(make_data(prepared_dir), tmp_path)


def test_a_drifted_run_is_stopped_with_both_numbers(prepared_dir: Path, tmp_path: Path) -> None:
    data = make_data(prepared_dir)
    original = data.train_dataloader

    def drifted():
        loader = original()
        loader.sampler.first = lambda: 1
        return loader

    data.train_dataloader = drifted
    with pytest.raises(UserError, match="training is at micro-batch 0, but got the data of micro-batch 1"):
        fit(data, trainer(tmp_path, 5))


@pytest.mark.parametrize(("streams", "shards"), [(1, 2), (4, 8)])
def test_a_cache_holds_the_shards_that_are_in_use(prepared_dir: Path, streams: int, shards: int) -> None:
    """Of every remote corpus the shards of a window and one more; local ones need no room."""
    manifest = Manifest.load(prepared_dir)
    local = PreparedCorpus(str(prepared_dir), prepared_dir, manifest)
    remote = PreparedCorpus("s3://bucket/corpus", prepared_dir, manifest)
    sizes = sorted(12 + 2 * tokens for tokens in manifest.train.shard_tokens)
    needed, most = 2 * sum(sizes[-shards - 1 :]), min(4, shards + 1)
    require_cache((local, remote, remote), shards, needed)
    with pytest.raises(UserError, match=rf"cache_bytes={needed - 1:,} .* {needed:,} bytes of the {most} shards"):
        require_cache((local, remote, remote), shards, needed - 1)
    require_cache((local, local), shards, 1)


def test_more_devices_on_resume_are_no_fresh_run(prepared_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """600 of 640 steps on one device, the rest on eight: a fresh run on eight would not have the text."""
    fit(make_data(prepared_dir), trainer(tmp_path, 600, Schedule.superposition(4, 100), save_every=600))
    data = attach(make_data(prepared_dir), tmp_path, max_steps=640)
    data.set_schedule(Schedule.superposition(4, 100))
    data.load_state_dict(torch.load(tmp_path / "step=600.ckpt", weights_only=True)["TokenDataModule"])
    for user in ("datamodule", "planned"):
        monkeypatch.setattr(f"tst_lightning.data.{user}.replicas", lambda trainer: (8, 0))
    data.check(640, 1, 8)
    data.train_dataloader()
    assert data.positions(640) == (600 * 4 + 40 * 32) * LENGTH
    data.trainer.fit_loop.epoch_loop.max_steps = 900
    with pytest.raises(UserError, match="900 steps need"):
        data.train_dataloader()
