"""A resumed run reads, to the bit, what the uninterrupted one would have read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pseudo_corpus import pseudo_text_tokens, write_prepared
from recording import Recorder, fit, trainer

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.reading.resume import continued_history
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

STEPS, SWITCH, ACCUMULATE = 12, 5, 2
SCHEDULE = Schedule.superposition(4, SWITCH)


def make_data(folder: Path, **options) -> TokenDataModule:
    return TokenDataModule(str(folder), 16, **{"batch_size": 4, "num_workers": 0, "validation_windows": 4, **options})


def make_trainer(folder: Path, steps: int = STEPS, schedule: Schedule | None = SCHEDULE, **options):
    options = {"accumulate_grad_batches": ACCUMULATE, "val_check_interval": 3, **options}
    return trainer(folder, steps, schedule, **options)


@pytest.fixture(scope="module")
def uninterrupted(prepared_source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    """A whole run with a checkpoint at every step, and the folder of the checkpoints."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return fit(make_data(prepared_source), make_trainer(folder, save_every=1)), folder


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("step", [3, SWITCH, 8], ids=["superposition", "switch", "recovery"])
@pytest.mark.parametrize("build_loader_early", [False, True])
def test_resumed_run_reads_the_same_batches(
    uninterrupted: tuple[Recorder, Path],
    prepared_source: Path,
    tmp_path: Path,
    step: int,
    num_workers: int,
    build_loader_early: bool,
) -> None:
    """Also when Lightning builds the loader before it restores the step."""
    whole, checkpoints = uninterrupted
    module = fit(
        make_data(prepared_source, num_workers=num_workers),
        make_trainer(tmp_path),
        ckpt_path=checkpoints / f"step={step}.ckpt",
        build_loader_early=build_loader_early,
    )
    assert module.order == list(range(step * ACCUMULATE, STEPS * ACCUMULATE))
    assert module.rows == {micro: whole.rows[micro] for micro in module.order}
    assert torch.equal(module.weights.weight, whole.weights.weight)


def test_a_finished_run_can_be_extended(
    uninterrupted: tuple[Recorder, Path], prepared_source: Path, tmp_path: Path
) -> None:
    """The plan does not depend on ``max_steps``."""
    _, checkpoints = uninterrupted
    longer = fit(make_data(prepared_source), make_trainer(tmp_path / "longer", steps=16))
    module = fit(
        make_data(prepared_source),
        make_trainer(tmp_path, steps=16),
        ckpt_path=checkpoints / f"step={STEPS}.ckpt",
    )
    assert module.order == list(range(STEPS * ACCUMULATE, 16 * ACCUMULATE))
    assert module.rows == {micro: longer.rows[micro] for micro in module.order}


def test_two_ranks_go_on_where_one_stopped(
    uninterrupted: tuple[Recorder, Path], prepared_source: Path, tmp_path: Path
) -> None:
    """Two processes with half the batch each: disjoint, and together the batches of the single process."""
    whole, checkpoints = uninterrupted
    run = make_trainer(tmp_path, strategy="ddp_spawn", devices=2)
    fit(
        make_data(prepared_source, batch_size=2),
        run,
        ckpt_path=checkpoints / "step=3.ckpt",
        record_dir=tmp_path,
    )
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for rank in ranks:
        assert rank["order"] == list(range(3 * ACCUMULATE, STEPS * ACCUMULATE))
    for micro in ranks[0]["order"]:
        first, second = (rank["rows"][str(micro)] for rank in ranks)
        assert not set(first) & set(second)
        assert first + second == whole.rows[micro]


def ranks_of(folder: Path) -> list[dict]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    "step",
    [pytest.param(3, marks=pytest.mark.slow), SWITCH, pytest.param(8, marks=pytest.mark.slow)],
    ids=["superposition", "switch", "recovery"],
)
def test_more_devices_go_on_with_unread_text_and_so_does_the_resume_after_that(
    uninterrupted: tuple[Recorder, Path], prepared_source: Path, tmp_path: Path, step: int, caplog
) -> None:
    """One device, from `step` on two with as many rows each, from there + 2 on one again."""
    whole, checkpoints = uninterrupted
    run = make_trainer(tmp_path, strategy="ddp_spawn", devices=2, save_every=2)
    fit(make_data(prepared_source), run, ckpt_path=checkpoints / f"step={step}.ckpt", record_dir=tmp_path)
    ranks = ranks_of(tmp_path)
    seen = {digest for micro in range(step * ACCUMULATE) for digest in whole.rows[micro]}
    for micro in range(step * ACCUMULATE, STEPS * ACCUMULATE):
        both = ranks[0]["rows"][str(micro)] + ranks[1]["rows"][str(micro)]
        assert len(set(both)) == 8
        assert not set(both) & seen
        seen |= set(both)

    second = step + 2 - step % 2
    state = torch.load(tmp_path / f"step={second}.ckpt", weights_only=True)["TokenDataModule"]
    assert state["history"] == [[0, 4], [step, 8]]
    assert (state["step"], state["devices"], state["batch_size"]) == (second, 2, 4)
    data, paths = make_data(prepared_source), {"ckpt_path": tmp_path / f"step={second}.ckpt"}
    with caplog.at_level("INFO"):
        module = fit(data, make_trainer(tmp_path / "again"), **paths)
    assert f"From step {second}: bag size" in "\n".join(caplog.messages)
    read_on_two = [d for m in range(step * ACCUMULATE, second * ACCUMULATE) for r in ranks for d in r["rows"][str(m)]]
    before = {d for m in range(step * ACCUMULATE) for d in whole.rows[m]} | set(read_on_two)
    now = [digest for rows in module.rows.values() for digest in rows]
    assert len(now) == len(set(now)) == 4 * ACCUMULATE * (STEPS - second)
    assert not before & set(now)
    assert data.state_dict()["history"] == [[0, 4], [step, 8], [second, 4]]
    positions = [4] * step + [8] * (second - step) + [4] * (STEPS - second)
    assert data.positions(STEPS) == sum(positions) * ACCUMULATE * 16
    bags = [SCHEDULE.bag_size(step) for step in range(STEPS)]
    tokens = sum(rows * bag for rows, bag in zip(positions, bags, strict=True))
    assert data.data_tokens(STEPS) == tokens * ACCUMULATE * 16

    # The same devices as before the kill: the part goes on, to the bit.
    again = fit(make_data(prepared_source), make_trainer(tmp_path / "third"), **paths)
    assert again.rows == module.rows


@pytest.mark.parametrize(
    ("history", "step", "rows", "expected"),
    [
        ([[0, 8]], 5, 8, ((0, 8),)),
        ([[0, 8]], 5, 16, ((0, 8), (5, 16))),
        ([[0, 8]], 0, 16, ((0, 16),)),
        ([[0, 8], [5, 16]], 9, 16, ((0, 8), (5, 16))),
        ([[0, 8], [5, 16]], 9, 8, ((0, 8), (5, 16), (9, 8))),
        ([[0, 8], [5, 16]], 5, 24, ((0, 8), (5, 24))),
    ],
)
def test_a_part_begins_where_the_rows_of_a_micro_batch_change(history, step: int, rows: int, expected) -> None:
    """A part without a step has read nothing and leaves no trace."""
    assert continued_history({"history": history, "step": step}, rows) == expected


@pytest.mark.parametrize(
    ("data_options", "run_options", "named"),
    [
        ({"seed": 1}, {}, "seed: 0 in the checkpoint, now 1. To go on, set data.seed: 0; or start"),
        (
            {"batch_size": 3},
            {},
            r"batch_size \* devices: 4 in the checkpoint, now 3.* data.batch_size: 4 \(on 1 dev",
        ),
        ({"rows_per_group": 8}, {}, "rows_per_group: 4 in the checkpoint, now 8. .* set data.rows_per_group: 4;"),
        ({"streams": 2, "seed": 3}, {}, "streams: 1 in the checkpoint, now 2. .* data.seed: 0, data.streams: 1;"),
        (
            {},
            {"accumulate_grad_batches": 1},
            "batches: 2 in the ch.*, now 1. .* trainer.accumulate_grad_batches: 2",
        ),
        (
            {},
            {"schedule": Schedule.superposition(4, 7)},
            "was at step 5 of 12 .* at step 7 of 12: give .*recovery_step=5 ",
        ),
        (
            {},
            {"schedule": None},
            "bags of 4 tokens from step 0, single tokens from step 5 of 12, .* give .*bag_size=4",
        ),
    ],
)
def test_another_data_order_is_refused(
    uninterrupted: tuple[Recorder, Path],
    prepared_source: Path,
    tmp_path: Path,
    data_options: dict,
    run_options: dict,
    named: str,
) -> None:
    _, checkpoints = uninterrupted
    run = make_trainer(tmp_path, **run_options)
    module = Recorder()
    with pytest.raises(UserError, match=named):
        run.fit(module, make_data(prepared_source, **data_options), ckpt_path=checkpoints / "step=3.ckpt")
    assert module.order == []


def test_another_corpus_is_refused(
    uninterrupted: tuple[Recorder, Path], prepared_source: Path, prepared_dir: Path, tmp_path: Path
) -> None:
    """A copy goes on, also one that was prepared from elsewhere; another text in its place does not."""
    _, checkpoints = uninterrupted
    manifest = prepared_dir / "manifest.json"
    manifest.write_text(manifest.read_text().replace("pseudo_text", "another_text"))
    options = {"ckpt_path": checkpoints / "step=8.ckpt"}
    resumed = fit(make_data(prepared_dir), make_trainer(tmp_path, save_every=STEPS), **options)
    assert len(resumed.order) == (STEPS - 8) * ACCUMULATE
    shutil.rmtree(prepared_dir)
    write_prepared(prepared_dir, [pseudo_text_tokens(90_000, 50)], [pseudo_text_tokens(9_000, 51)])
    message = rf"corpus: '{prepared_source}' in the checkpoint, now '{prepared_dir}'\. To go on, set data.data_dir to"
    with pytest.raises(UserError, match=message):
        fit(make_data(prepared_dir), make_trainer(tmp_path), **options)
    message = rf"corpus: .* now '{prepared_dir}' with other content\. "
    with pytest.raises(UserError, match=message):
        fit(make_data(prepared_dir), make_trainer(tmp_path), ckpt_path=tmp_path / f"step={STEPS}.ckpt")


def test_another_division_into_documents_is_another_corpus(prepared_dir: Path) -> None:
    before = make_data(prepared_dir).corpora[0].hash
    text = (prepared_dir / "manifest.json").read_text()
    ends = json.loads(text)["files"]["train/document_ends.u32"]
    (prepared_dir / "manifest.json").write_text(text.replace(ends, "0" * 64))
    assert make_data(prepared_dir).corpora[0].hash != before


def test_a_checkpoint_from_the_middle_of_a_step_is_stopped(prepared_source: Path, tmp_path: Path) -> None:
    """Its optimizer step has begun, and the plan starts at whole steps."""
    run = make_trainer(tmp_path)

    class SaveMidStep(Recorder):
        def on_train_batch_end(self, outputs, batch: dict, batch_idx: int) -> None:
            if batch["micro"] == 6:
                self.trainer.save_checkpoint(tmp_path / "middle.ckpt")

    run.fit(SaveMidStep(), make_data(prepared_source))
    with pytest.raises(UserError, match="training is at micro-batch 7, but got the data of micro-batch 6"):
        fit(make_data(prepared_source), make_trainer(tmp_path), ckpt_path=tmp_path / "middle.ckpt")


def test_validating_a_checkpoint_needs_no_schedule(
    uninterrupted: tuple[Recorder, Path], prepared_source: Path, tmp_path: Path
) -> None:
    _, checkpoints = uninterrupted
    module = Recorder()
    run = make_trainer(tmp_path, schedule=None)
    run.validate(module, make_data(prepared_source), ckpt_path=checkpoints / "step=3.ckpt", verbose=False)
    assert sum(len(tokens) for tokens in module.validation) == 4
