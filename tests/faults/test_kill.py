"""SIGKILL at any moment, resume, and end with the bits of the uninterrupted run; summary in ``make faults``."""

import random
import signal
import time

import pytest
import torch
from programs import (
    SAVE_EVERY,
    STEPS,
    SWITCH,
    Programs,
    fit_arguments,
    kill,
    last,
    prepare_arguments,
    same,
    wait_for,
    wait_for_step,
    weights,
    write_config,
)

SEED = 20_26


def moments(seed: int) -> list[tuple[str, int, float]]:
    """Twenty: what the process is doing, at which step or call, and seconds to wait from there on."""
    choose = random.Random(seed)
    saves = STEPS // SAVE_EVERY
    drawn = [("superposition", choose.randrange(SWITCH - 1), choose.uniform(0, 0.05)) for _ in range(4)]
    drawn += [("the switch", SWITCH - 1 + number % 2, choose.uniform(0, 0.02)) for number in range(3)]
    drawn += [("recovery", choose.randrange(SWITCH + 1, STEPS - 2), choose.uniform(0, 0.05)) for _ in range(4)]
    places = ["while the file is written"] * 2 + ["before the file is renamed", "after the file is renamed"]
    drawn += [(place, choose.randint(1, saves), 0.0) for place in places]
    drawn += [("in validation", choose.randint(2, 15), 0.0)]
    drawn += [("in downstream evaluation", choose.randint(1, 2), 0.0), ("after training", 1, 0.0)]
    return [*drawn, ("while a part is prepared", choose.randint(2, 12), 0.0), ("before a part is finished", 3, 0.0)]


MOMENTS = moments(SEED)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    started = Programs(tmp_path_factory.mktemp("programs"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def config(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    assert programs.run(*prepare_arguments(folder)) == 0, programs.output.read_text()
    return write_config(folder / "fit.yaml", folder / "prepared")


@pytest.fixture(scope="module")
def uninterrupted(programs, config, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert programs.run(*fit_arguments(config, run)) == 0, programs.output.read_text()
    return weights(run)


def kill_and_resume(programs, config, run, moment):
    """Kill the run once, and have it end."""
    doing, number, seconds = moment
    marker = run.with_name("marker")
    by_step = doing in ("superposition", "the switch", "recovery")
    if doing.startswith("before the file"):
        number = 2 * number - 1  # the folder is synchronised too
    pid = programs.start(*fit_arguments(config, run), pause=None if by_step else [doing, number, str(marker)])
    if by_step:
        wait_for_step(run, number, pid)
        time.sleep(seconds)
    else:
        wait_for(marker.exists, pid)
    kill(pid)
    assert programs.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    if last(run).exists():
        torch.load(last(run), weights_only=True)  # whole, wherever it was killed
    assert programs.run(*fit_arguments(config, run)) == 0, programs.output.read_text()
    assert not list(run.rglob("*.part")), "what was half-written is still there"


@pytest.mark.slow
@pytest.mark.parametrize("moment", [m for m in MOMENTS if "part" not in m[0]], ids=lambda m: f"{m[0]}, {m[1]}")
def test_a_killed_run_ends_with_the_same_weights(moment, programs, config, uninterrupted, tmp_path):
    kill_and_resume(programs, config, tmp_path / "run", moment)
    assert same(uninterrupted, weights(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", [m for m in MOMENTS if "part" in m[0]], ids=lambda m: f"{m[0]}, {m[1]}")
def test_a_killed_preparation_ends_with_a_corpus_that_trains_alike(moment, programs, uninterrupted, tmp_path):
    doing, number, _ = moment
    arguments, marker = prepare_arguments(tmp_path), tmp_path / "marker"
    pid = programs.start(*arguments, pause=[doing, number, str(marker)])
    wait_for(marker.exists, pid)
    kill(pid)
    assert programs.wait() == -signal.SIGKILL
    assert not (tmp_path / "prepared").exists()
    assert programs.run(*arguments) == 0, programs.output.read_text()
    config = write_config(tmp_path / "fit.yaml", tmp_path / "prepared")
    assert programs.run(*fit_arguments(config, tmp_path / "run")) == 0, programs.output.read_text()
    assert same(uninterrupted, weights(tmp_path / "run"))


@pytest.mark.slow
def test_no_process_is_left(programs):
    assert not programs.survivors()


def test_killed_while_saving_and_resumed(prepared_source, tmp_path):
    """The short form of the above: one run, killed twice, once before it has a checkpoint at all."""
    programs = Programs(tmp_path)
    try:
        config = write_config(tmp_path / "fit.yaml", prepared_source, steps=8, switch=4, evaluate=False)
        run, whole = tmp_path / "run", tmp_path / "whole"
        assert programs.run(*fit_arguments(config, whole)) == 0, programs.output.read_text()
        for call in (1, 2):
            marker = tmp_path / f"marker{call}"
            pid = programs.start(*fit_arguments(config, run), pause=["while the file is written", call, str(marker)])
            wait_for(marker.exists, pid)
            kill(pid)
            assert programs.wait() == -signal.SIGKILL
            assert [path.name for path in (run / "checkpoints").glob("*.part")] == [".last.ckpt.part"]
            assert last(run).exists() == (call == 2)
        assert programs.run(*fit_arguments(config, run)) == 0, programs.output.read_text()
        assert same(weights(whole), weights(run))
        assert not programs.survivors()
    finally:
        programs.close()


def test_resuming_what_has_no_checkpoint_is_refused(tmp_path, prepared_source):
    """In this process: nothing is trained."""
    from tst_lightning.cli import main

    config = write_config(tmp_path / "fit.yaml", prepared_source)
    assert main([*fit_arguments(config, tmp_path / "run"), "--ckpt_path", "last"]) == 2
    assert not (tmp_path / "run").exists()
