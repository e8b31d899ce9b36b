import io
import os
import pty
import sys
import time
from collections.abc import Callable

import pytest

from tst_lightning.comparison.running import budget as budget_module
from tst_lightning.comparison.running.budget import Budget, terminal_lines
from tst_lightning.errors import UserError

HOUR = 3600.0


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the budget on by so many seconds."""
    now = [100.0]
    monkeypatch.setattr(budget_module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize("hours", [0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_above_zero(hours: float) -> None:
    with pytest.raises(UserError, match="budget_hours is"):
        Budget(hours)


def test_without_a_budget_everything_fits_and_nothing_is_said() -> None:
    budget = Budget(None, lambda: "n")
    budget.start()
    assert not budget.is_tight(1e12)
    assert budget.announce(24, 1e12, 1, are_first=True) is None
    assert budget.overshoot(1e12) is None
    assert budget.hear() is None


def test_it_counts_from_the_start(pass_time: Callable[[float], None]) -> None:
    budget = Budget(3, lambda: None)
    pass_time(1000.0)  # data are prepared before the start
    budget.start()
    assert budget.left_seconds == 3 * HOUR
    pass_time(2 * HOUR)
    assert budget.left_seconds == HOUR
    assert not budget.is_tight(HOUR)
    assert budget.is_tight(HOUR + 1)


def test_without_a_terminal_it_is_said_once_what_is_run(
    pass_time: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "terminal_lines", lambda: None)
    budget = Budget(3)
    budget.start()
    assert budget.announce(24, 2 * HOUR, 24, are_first=True) is None
    assert budget.announce(24, 9 * HOUR, 8, are_first=True) == (
        "24 runs, about 9 h 00 min; the budget of 3 h 00 min is enough for the first 8: only these are run"
    )
    assert budget.announce(24, 9 * HOUR, 8, are_first=True) is None
    assert budget.hear() is None
    assert budget.left_seconds == 3 * HOUR


def ask(*lines: str | None) -> Budget:
    answers = iter(lines)
    budget = Budget(3, lambda: next(answers))
    budget.start()
    said = budget.announce(24, 9 * HOUR, 8, are_first=False)
    assert said.endswith("is enough for 8 of them: run these? [y = these / a = all / n = stop]")
    return budget


def test_answers(pass_time: Callable[[float], None]) -> None:
    budget = ask(None, "y\n")
    assert budget.is_asking
    assert budget.hear() is None  # not answered yet
    assert budget.hear() == "these are run"
    assert budget.is_tight(4 * HOUR)
    assert not budget.is_asking
    assert budget.hear() is None  # asked once

    budget = ask("what?\n", "All\n")
    assert budget.hear() == "please answer [y = these / a = all / n = stop]"
    assert budget.is_tight(4 * HOUR)  # until it is answered, what fits is run
    assert budget.hear() == "all are run"
    assert not budget.is_tight(400 * HOUR)
    assert not budget.stopped

    budget = ask("n\n")
    assert budget.hear() == "stopping"
    assert budget.stopped


def test_where_nothing_fits_it_is_all_or_nothing(pass_time: Callable[[float], None]) -> None:
    answers = ["a", "y"]
    budget = Budget(3, answers.pop)
    budget.start()
    said = budget.announce(2, 9 * HOUR, 0, are_first=True)
    assert said == (
        "2 runs, about 9 h 00 min; the budget of 3 h 00 min is enough for none: run all? [a = all / n = stop]"
    )
    assert budget.hear() == "please answer [a = all / n = stop]"
    assert budget.hear() == "all are run"


def test_running_over_is_said_once(pass_time: Callable[[float], None]) -> None:
    budget = Budget(1)
    budget.start()
    assert budget.overshoot(HOUR) is None
    pass_time(0.01 * HOUR)
    assert budget.overshoot(HOUR) is None  # within the accuracy of a forecast
    pass_time(0.49 * HOUR)
    assert budget.overshoot(HOUR) == (
        "the runs at work are not ended by the budget: they end about 30 min 00 s after it"
    )
    assert budget.overshoot(HOUR) is None


def test_a_terminal_is_read_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert terminal_lines() is None
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        # The terminal is not this test's own, so it has no group in the foreground.
        monkeypatch.setattr(budget_module.os, "tcgetpgrp", lambda _: os.getpgrp())
        read_line = terminal_lines()
        assert read_line() is None
        os.write(master, b"a\n")
        deadline = time.monotonic() + 30
        while (line := read_line()) is None:
            assert time.monotonic() < deadline
        assert line == "a\n"
        monkeypatch.setattr(budget_module.os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
        os.write(master, b"n\n")
        assert read_line() is None  # in the background the line is not ours
    os.close(master)
