"""Several processes train what one does: losses, weights and optimizer state through the switch, and the text read."""

import pytest
from parallel_runs import (
    STEPS,
    SWITCH,
    Fit,
    assert_reads_what_one_does,
    assert_trains_what_one_does,
    fit_all,
)


def test_two_processes_train_what_one_does(prepared_dir, tmp_path):
    one, two = fit_all(prepared_dir, Fit(tmp_path / "one"), Fit(tmp_path / "two", 2))
    assert len(one.losses) == STEPS
    assert abs(one.losses[SWITCH] - one.losses[SWITCH - 1]) > 1e-3
    assert_reads_what_one_does(two, one)
    assert_trains_what_one_does(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("processes", [2, 4])
def test_every_strategy_trains_what_one_process_does(tied, processes, prepared_dir, tmp_path):
    values = {"config": {"tie_word_embeddings": tied}}
    strategies = ("ddp", "fsdp2", "tensor_parallel")
    fits = [Fit(tmp_path / strategy, processes, strategy, values=values) for strategy in strategies]
    one, *runs = fit_all(prepared_dir, Fit(tmp_path / "one", values=values), *fits)
    for strategy, run in zip(strategies, runs, strict=True):
        assert_reads_what_one_does(run, one, rows_by=2 if strategy == "tensor_parallel" else 1)
        assert_trains_what_one_does(run, one)
