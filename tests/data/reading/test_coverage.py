"""tst_lightning.data.reading.coverage: how long a run the text suffices for, against trying every length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tst_lightning.data.reading.concat import ConcatRows
from tst_lightning.data.reading.coverage import most_steps, require_enough_text
from tst_lightning.data.reading.curriculum import length_schedule
from tst_lightning.data.reading.order import GroupOrder
from tst_lightning.data.reading.plan import Plan
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule
from tst_lightning.stages import SuperpositionStages

BELOW = 160
SETTINGS = settings(max_examples=25, deadline=None)


@st.composite
def options(draw) -> SuperpositionStages:
    kind = draw(st.sampled_from(["ratio", "step", "several", "patches"]))
    share = draw(st.floats(0.05, 0.9))
    if kind == "ratio":
        return SuperpositionStages(draw(st.sampled_from([2, 4, 8])), share)
    if kind == "step":
        return SuperpositionStages(4, recovery_step=draw(st.integers(1, BELOW - 1)))
    if kind == "patches":
        return SuperpositionStages(4, share, fraction_of="data", tokens_per_step="constant")
    sizes = draw(st.permutations([8, 4, 2]))[: draw(st.integers(2, 3))]
    return SuperpositionStages(bag_sizes=(*sizes, 1), step_ratio=share)


def plan_of(stages: SuperpositionStages, steps: int, groups: int, accumulate: int = 1, parts=()) -> Plan:
    order = GroupOrder((groups, groups // 2))
    corpora = (ConcatRows(order, 3, 8),)
    schedule = stages.schedule(steps)
    return Plan(corpora, schedule, accumulate=accumulate, batch_size=4, history=parts)


def longest(stages: SuperpositionStages, groups: int, accumulate: int, epochs: int) -> int:
    """By trying all lengths, each with a schedule of its own."""
    found = 0
    for steps in range(1, BELOW):
        try:
            plan = plan_of(stages, steps, groups, accumulate)
        except UserError:
            continue
        if max(plan.passes_needed(steps)) <= epochs:
            found = steps
    return found


@SETTINGS
@given(options(), st.integers(8, 1500), st.integers(1, 3), st.integers(1, 2))
def test_it_is_the_longest_run_with_its_own_switch(stages, groups, accumulate, epochs):
    try:
        plan = plan_of(stages, BELOW, groups, accumulate)
    except UserError:  # a ratio that leaves no step of recovery
        return
    assert most_steps(plan, epochs, BELOW) == longest(stages, groups, accumulate, epochs)


def test_the_message_says_a_length_that_is_enough_and_where_its_switch_is():
    """Half of 160 steps read 4 * 80 groups of 8 rows, and the other half 4 * 80 rows: of 150 + 75 groups."""
    stages = SuperpositionStages(8, 0.5)
    plan = plan_of(stages, BELOW, 150)
    with pytest.raises(UserError) as caught:
        require_enough_text(plan, ["books"], BELOW, 1)
    steps = longest(stages, 150, 1, 1)
    assert f"enough for {steps} steps: " in str(caught.value)
    assert f"lower max_steps to {steps} (and the switch with it, from step 80 to {round(steps / 2)})" in str(
        caught.value
    )
    require_enough_text(plan_of(stages, steps, 150), ["books"], steps, 1)
    # The first steps of the longer run, all in superposition, are fewer.
    assert plan.most_steps(1, BELOW) < steps


def test_a_switch_at_a_step_of_its_own_stays():
    stages = SuperpositionStages(4, recovery_step=20)
    plan = plan_of(stages, BELOW, 60)
    with pytest.raises(UserError, match=r"lower max_steps to \d+, or prepare"):
        require_enough_text(plan, ["books"], BELOW, 1)
    assert most_steps(plan_of(stages, BELOW, 20), 1, BELOW) == 0  # no room for the recovery


def test_a_run_that_goes_on_is_not_told_to_switch_elsewhere():
    stages = SuperpositionStages(8, 0.1)
    plan = plan_of(stages, BELOW, 60, parts=((0, 4), (10, 8)))
    with pytest.raises(UserError) as caught:
        require_enough_text(plan, ["books"], BELOW, 1)
    assert "lower max_steps" not in str(caught.value)
    assert f"enough for {plan.most_steps(1, BELOW)} steps" in str(caught.value)


@pytest.mark.parametrize("steps", [1, 7, 100, 999])
def test_a_curriculum_of_another_length_reads_as_much_of_every_length(steps):
    tokens = {16: 1_000, 32: 777, 64: 3_001}
    whole = length_schedule(tokens, 500, "grow_p2", 3, np.random.default_rng(0))
    other = length_schedule(tokens, steps, "grow_p2", 3, np.random.default_rng(1))

    def counted(schedule: Schedule) -> dict[int, int]:
        counts = dict.fromkeys(tokens, 0)
        for stage, number in schedule.spans(steps):
            counts[stage.sequence_length] += number
        return counts

    assert counted(whole.of_length(steps)) == counted(other)
