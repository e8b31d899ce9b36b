"""Training runs on rows of different lengths: their text, resuming, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from pseudo_corpus import pseudo_text_tokens, write_prepared
from recording import Recorder, SetSchedule, fit, trainer

from tst_lightning.bags import IGNORE
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule, Stage

LENGTHS = (4, 8, 16)


@pytest.fixture(scope="module")
def documents_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of documents of 1 to 200 tokens, the last of each cut."""
    random = np.random.default_rng(3)
    shards = []
    for tokens in (20_000, 12_345, 16_000):
        ids = random.integers(0, 256, tokens).astype(np.uint16)  # so that no two rows are alike
        ids[np.cumsum(random.integers(1, 200, tokens // 120))] = 256
        shards.append(ids)
    return write_prepared(tmp_path_factory.mktemp("documents") / "prepared", shards, [pseudo_text_tokens(3_000, 9)])


class SetLengths(SetSchedule):
    """What the callback does to the data module."""

    def setup(self, trainer, pl_module, stage: str) -> None:
        trainer.datamodule.decompose(4, "random")
        super().setup(trainer, pl_module, stage)


LENGTHS_OF_STEPS = [4, 4, 16, 8, 4, 8, 16, 16, 4, 8]
SCHEDULE = Schedule(tuple(Stage(step, 1, 1, sequence_length=n) for step, n in enumerate(LENGTHS_OF_STEPS)))


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, **{"batch_size": 2, "num_workers": 0, "validation_windows": 4} | options)


def run_of(folder: Path, steps: int = 10, schedule: Schedule = SCHEDULE, **options):
    run = trainer(folder, steps, accumulate_grad_batches=2, **options)
    run.callbacks.insert(0, SetLengths(schedule))
    return run


@pytest.fixture(scope="module")
def whole_run(documents_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("whole")
    data, module = make_data(documents_dir), Recorder()
    batches = []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: batches.append(batch) or step(batch, batch_idx)
    run_of(folder, save_every=1).fit(module, data)
    return data, module, batches, folder


def test_steps_have_rows_of_their_length_and_a_constant_number_of_tokens(whole_run, documents_dir: Path) -> None:
    data, module, batches, _ = whole_run
    shapes = [(32 // n, n + 1, 1) for n in LENGTHS_OF_STEPS for _ in range(2)]
    assert list(module.shapes.values()) == shapes
    assert {tuple(tokens.shape[1:]) for tokens in module.validation} == {(17, 1)}
    digests = [digest for rows in module.rows.values() for digest in rows]
    assert len(set(digests)) == len(digests)
    text = [np.fromfile(path, "<u2", offset=12).tobytes() for path in sorted((documents_dir / "train").glob("*.bin"))]
    for batch in batches:
        assert set(batch) == {"tokens", "micro"}  # every position has a target: none is IGNORE
        for row in batch["tokens"].flatten(1).numpy():
            assert IGNORE not in row
            assert 256 not in row[:-1]  # the end of a text only ends a row
            assert any(row.astype("<u2").tobytes() in shard for shard in text)
    for steps in range(11):
        assert data.positions(steps) == data.data_tokens(steps) == steps * 2 * 32
    by_length = {n: 64 * LENGTHS_OF_STEPS.count(n) for n in LENGTHS}
    assert data.positions_by_length(10) == by_length


@pytest.mark.parametrize(("step", "workers"), [(3, 0), (6, 2)])
def test_a_resumed_run_reads_the_same(whole_run, documents_dir: Path, tmp_path: Path, step: int, workers: int) -> None:
    _, module, _, folder = whole_run
    again = fit(make_data(documents_dir, num_workers=workers), run_of(tmp_path), folder / f"step={step}.ckpt")
    assert again.rows == {micro: rows for micro, rows in module.rows.items() if micro >= 2 * step}


def test_larger_batches_on_resume_go_on_with_unread_rows(whole_run, documents_dir: Path, tmp_path, monkeypatch) -> None:
    """Two devices with as many rows each, of which this is the first."""
    _, module, _, folder = whole_run
    for user in ("datamodule", "planned"):
        monkeypatch.setattr(f"tst_lightning.data.{user}.replicas", lambda trainer: (2, 0))
    data = make_data(documents_dir)
    again = fit(data, run_of(tmp_path), folder / "step=4.ckpt")
    before = {digest for micro in range(8) for digest in module.rows[micro]}
    now = [digest for rows in again.rows.values() for digest in rows]
    assert len(set(now)) == len(now)
    assert not set(now) & before
    assert data.positions(10) == (4 + 6 * 2) * 64


def test_other_cuts_are_no_resume(whole_run, documents_dir: Path, tmp_path: Path) -> None:
    folder = whole_run[-1]
    run = run_of(tmp_path)
    run.callbacks[0].setup = lambda run, module, stage: (
        run.datamodule.decompose(4, "longest"), run.datamodule.set_schedule(SCHEDULE)
    )  # fmt: skip
    with pytest.raises(UserError, match=r"decomposition: rows .* 4, random\) .* now .* longest\).* as the ch"):
        fit(make_data(documents_dir), run, folder / "step=3.ckpt")


def test_text_is_enough_or_the_run_is_refused(documents_dir: Path, tmp_path: Path, caplog) -> None:
    long_rows = Schedule((Stage(0, 1, 1, sequence_length=16),))
    message = (
        r"2,000 steps need [\d,]+ tokens of '.*', which has [\d,]+ for each of epochs=1 \(in rows of 16 \+ 1 tokens"
    )
    with pytest.raises(UserError, match=message + r" of one document\), enough for (\d+) steps: set epochs=\d+"):
        fit(make_data(documents_dir), run_of(tmp_path, 2_000, long_rows))
    data = make_data(documents_dir, epochs=2)
    data.decompose(4, "random")
    data.set_schedule(long_rows)
    rows = next(bucket.rows_per_pass for bucket in data._builder.buckets(4, "random") if bucket.length == 16)
    data.check(rows // 2, 2, 1)
    with pytest.raises(UserError, match=f"enough for {rows // 2} steps: set epochs=3"):
        data.check(rows // 2 + 1, 2, 1)
    with caplog.at_level("INFO"):
        fit(make_data(documents_dir), run_of(tmp_path, 10))
    lines = "\n".join(caplog.messages)
    assert "in pieces of documents of 4 tokens and less" in lines
    assert "Rows of 8: " in lines
    assert "read in 3 steps of 2 x 4 rows" in lines


@pytest.mark.parametrize(
    ("options", "min_length", "message"),
    [
        ({"packing": "best_fit"}, 4, "packing=best_fit"),
        ({"isolate_documents": True}, 4, "isolate_documents=True"),
        ({"fold_by_document": True}, 4, "fold_by_document=True"),
        ({"streams": 2}, 4, "streams=2"),
        ({}, 6, "min_length=6: rows of a length curriculum have powers of two"),
        ({}, 32, "min_length=32 is greater than sequence_length=16"),
        ({"sequence_length": 20}, 4, "sequence_length=20: rows of a length curriculum have powers of two"),
        ({"sequence_length": 8192}, 8192, "no document of '.*' has the 8193 tokens of a row of min_length=8192"),
    ],
)
def test_what_cannot_be_decomposed_is_refused(
    documents_dir: Path, options: dict, min_length: int, message: str
) -> None:
    data = TokenDataModule(str(documents_dir), **{"sequence_length": 16, "batch_size": 2} | options)
    with pytest.raises(UserError, match=message):
        data.decompose(min_length, "random")


def test_a_mixture_is_not_decomposed(documents_dir: Path, prepared_source: Path) -> None:
    data = TokenDataModule({str(documents_dir): 1.0, str(prepared_source): 1.0}, 16, 2)
    with pytest.raises(UserError, match="a mixture of 2 corpora"):
        data.decompose(4, "random")
