"""A run that goes on with another number of processes: 2, then 1, then 4, over the switch."""

import pytest
from parallel_runs import (
    ROWS,
    STEPS,
    Fit,
    assert_no_token_twice,
    assert_same_weights,
    fit_all,
)

FIRST, SECOND = 2, 5
"""Steps at which the number of processes changes; between them lies the switch."""
SAVING = {"every_n_steps": 1}


def chain(prepared_dir, tmp_path, strategy, batch_sizes):
    """Runs by 2, 1 and 4 processes, each of which goes on from a checkpoint of the one before."""
    folders = [tmp_path / name for name in ("two", "one", "four")]
    resumes = [
        (),
        (f"--ckpt_path={folders[0]}/checkpoints/step={FIRST}.ckpt",),
        (f"--ckpt_path={folders[1]}/checkpoints/step={SECOND}.ckpt",),
    ]
    return [
        Fit(folder, processes, strategy, resume, {"data": {"batch_size": rows * processes}, "saving": SAVING})
        for folder, processes, resume, rows in zip(folders, (2, 1, 4), resumes, batch_sizes, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_as_many_rows_are_the_same_run(strategy, prepared_dir, tmp_path):
    """Step by step the text, the losses and in the end the weights of a run by one process without a stop."""
    fits = chain(prepared_dir, tmp_path, strategy, (ROWS // 2, ROWS, ROWS // 4))
    whole, two, one, four = fit_all(prepared_dir, Fit(tmp_path / "whole", values={"saving": SAVING}), *fits)
    parts = [(two, 0, FIRST), (one, FIRST, SECOND), (four, SECOND, STEPS)]
    for run, start, end in parts:
        assert run.ranks[0]["batches"][0]["step"] == start
        for what in ("spans", "rows"):
            read = [sorted(item for rank in batch for item in rank) for batch in run.read(what)]
            alone = [sorted(rank) for (rank,) in whole.read(what)]
            assert read[: end - start] == alone[start:end]
        for loss, expected in zip(run.losses, whole.losses[start:], strict=True):
            assert abs(loss - expected) <= 2e-5 * expected
    assert_same_weights(four, whole, STEPS)


@pytest.mark.slow
def test_other_numbers_of_rows_read_on_where_nothing_was_read(prepared_dir, tmp_path):
    two, one, four = fit_all(prepared_dir, *chain(prepared_dir, tmp_path, "ddp", (2, 2, 2)))
    spans = []
    for run, start, end in ((two, 0, FIRST), (one, FIRST, SECOND), (four, SECOND, STEPS)):
        batches = run.read()[: end - start]
        assert len(batches) == end - start
        assert all(len(rank) == 2 for batch in batches for rank in batch)
        spans += [span for batch in batches for rank in batch for span in rank]
    assert len(spans) == 2 * (2 * FIRST + (SECOND - FIRST) + 4 * (STEPS - SECOND))
    assert_no_token_twice(spans)
