"""Runs of the fake program, as tests of the runner need them."""

import io
import json
import sys
from pathlib import Path

from plain_arms import plain_arms

from tst_lightning.comparison.design.arms import Overlay
from tst_lightning.comparison.design.experiment import Experiment, Run
from tst_lightning.comparison.running.runner import Outcome, Runner
from tst_lightning.comparison.running.waiting import Failure

FAKE = (sys.executable, str(Path(__file__).with_name("fake_program.py")))


def make_runs(folder: Path, seeds: tuple[int, ...] = (1,), **modes: str) -> list[Run]:
    """One run per seed and arm; ``modes`` says what each arm does."""
    arms = {arm: Overlay([], {"fake": mode}) for arm, mode in modes.items()}
    return Experiment("e", folder, seeds, Overlay(), plain_arms(arms, next(iter(arms))), next(iter(arms))).runs()


def run_all(runs: list[Run], max_arms_at_once: int = 1, **more: object) -> tuple[Outcome, str]:
    """The outcome, and what was shown."""
    stream = io.StringIO()
    return Runner(runs, max_arms_at_once, 3, FAKE, stream, **more).run(), stream.getvalue()


def labels(failures: list[Failure]) -> list[str]:
    return [failure.run.label for failure in failures]


def starts(run: Run) -> list[dict]:
    """What each start of a run left."""
    return [json.loads(line) for line in (run.folder / "trace.jsonl").read_text().splitlines()]
