"""The schedule against step-by-step counting."""

import pytest

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule, Stage, WarmupStableDecay


def test_the_switch_falls_on_its_step():
    schedule = Schedule.superposition(bag_size=6, recovery_step=3)
    assert [schedule.bag_size(step) for step in range(6)] == [6, 6, 6, 1, 1, 1]
    assert [schedule.stage(step).superposed for step in range(6)] == [True] * 3 + [False] * 3


def test_output_only_superposition_reads_single_tokens():
    schedule = Schedule.superposition(bag_size=6, recovery_step=3, superpose_inputs=False)
    assert [schedule.bag_size(step) for step in range(5)] == [1] * 5
    assert [schedule.stage(step).superposed for step in range(5)] == [True] * 3 + [False] * 2


def test_no_superposition_is_the_baseline():
    assert Schedule.superposition(bag_size=6, recovery_step=0) == Schedule()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 9, 100])
def test_tokens_are_counted_as_by_walking(steps):
    schedule = Schedule((Stage(0, 8, True), Stage(3, 4, True), Stage(5, 1, False)))
    assert schedule.tokens_per_position(steps) == sum(schedule.bag_size(step) for step in range(steps))
    assert sum(count for _, count in schedule.spans(steps)) == steps


def test_data_tokens_follow_the_papers_formula():
    steps, ratio, bag_size = 1000, 0.3, 6
    schedule = Schedule.superposition(bag_size, round(ratio * steps))
    assert schedule.tokens_per_position(steps) == pytest.approx(steps * (ratio * bag_size + 1 - ratio))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "starts at step 0"),
        ((Stage(1, 1, False),), "starts at step 0"),
        ((Stage(0, 2, True), Stage(0, 1, False)), "increasing"),
        ((Stage(0, 0, True),), "at least one token"),
    ],
)
def test_impossible_schedules_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        Schedule(stages)


def test_warmup_stable_decay_factors():
    """Written out by hand: 4 steps up, a plateau, the last 5 of 20 down to zero."""
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    factors = [schedule.factor(step, 20) for step in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[4:16] == [1.0] * 12
    assert factors[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


def test_decay_ends_at_the_final_ratio_and_may_be_absent():
    assert WarmupStableDecay(decay_ratio=0.5, final_ratio=0.1).factor(10, 10) == pytest.approx(0.1)
    assert [WarmupStableDecay(decay_ratio=0.0).factor(step, 5) for step in range(5)] == [1.0] * 5


def test_a_restart_repeats_the_warmup_and_nothing_else():
    """Written out by hand: as without until step 8, 4 steps up again, and the same decay over the last 5 of 20."""
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    plain = [schedule.factor(step, 20) for step in range(21)]
    restarted = [schedule.factor(step, 20, restart_step=8) for step in range(21)]
    assert restarted[8:12] == [0.25, 0.5, 0.75, 1.0]
    assert restarted[:8] + restarted[12:] == plain[:8] + plain[12:]


def test_a_restart_within_the_decay_takes_the_lower_rate():
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    factors = [schedule.factor(step, 20, restart_step=16) for step in range(16, 20)]
    assert factors == pytest.approx([0.25, 0.5, 0.4, 0.2])


@pytest.mark.parametrize("bad", [{"warmup_steps": -1}, {"decay_ratio": 1.5}, {"final_ratio": -0.1}])
def test_bad_learning_rate_schedules_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        WarmupStableDecay(**bad)
