"""The learning rate against factors written out by hand."""

import math

import pytest

from tst_lightning.errors import UserError
from tst_lightning.learning_rate import Restart, WarmupStableDecay


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
    restarted = [schedule.factor(step, 20, restart=Restart(8)) for step in range(21)]
    assert restarted[8:12] == [0.25, 0.5, 0.75, 1.0]
    assert restarted[:8] + restarted[12:] == plain[:8] + plain[12:]


def test_a_restart_within_the_decay_takes_the_lower_rate():
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    factors = [schedule.factor(step, 20, restart=Restart(16)) for step in range(16, 20)]
    assert factors == pytest.approx([0.25, 0.5, 0.4, 0.2])


def test_a_whole_restart_is_two_schedules_one_after_the_other():
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    factors = [schedule.factor(step, 20, Restart(8, whole=True)) for step in range(20)]
    assert factors == [schedule.factor(step, 8) for step in range(8)] + [
        schedule.factor(step, 12) for step in range(12)
    ]


def test_cosine_factors():
    """Linear for 4 steps, then 0.1 + 0.9 * (1 + cos(pi * t)) / 2 with t from 0 to 1, as everywhere."""
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=1, final_ratio=0.1, decay_shape="cosine")
    factors = [schedule.factor(step, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == pytest.approx([0.1 + 0.9 * (1 + math.cos(math.pi * t / 16)) / 2 for t in range(17)])


def test_the_decay_begins_at_its_start():
    schedule = WarmupStableDecay(warmup_steps=4, decay_ratio=0.25)
    start = schedule.decay_start(20)
    assert [schedule.factor(start, 20), schedule.factor(start + 1, 20)] == [1.0, 0.8]


@pytest.mark.parametrize(
    "bad", [{"warmup_steps": -1}, {"decay_ratio": 1.5}, {"final_ratio": -0.1}, {"decay_shape": "square"}]
)
def test_bad_learning_rate_schedules_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        WarmupStableDecay(**bad)
