"""The schedule against step-by-step counting."""

import pytest

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule, Stage


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
    schedule = Schedule((Stage(0, 8, 8), Stage(3, 4, 4, row_divisor=4), Stage(5, 1, 1)))
    stages = [schedule.stage(step) for step in range(steps)]
    assert schedule.positions(steps, 12) == sum(12 // stage.row_divisor for stage in stages)
    assert schedule.data_tokens(steps, 12) == sum(12 // stage.row_divisor * stage.bag_size for stage in stages)
    assert sum(count for _, count in schedule.spans(steps)) == steps


def test_data_tokens_follow_the_papers_formula():
    steps, ratio, bag_size = 1000, 0.3, 6
    schedule = Schedule.superposition(bag_size, round(ratio * steps))
    assert schedule.data_tokens(steps, 32) == pytest.approx(32 * steps * (ratio * bag_size + 1 - ratio))
    assert schedule.positions(steps, 32) == 32 * steps


def test_patch_level_training_costs_what_its_paper_says():
    """Shao et al., section 2: lambda/K + 1 - lambda of the positions for the same text; 8,192 tokens a row are 2,048
    patches, and a step reads 2,097,152 tokens in both stages."""
    steps, share, patch_size = 3000, 2 / 3, 4
    length, rows = 2048, 1024
    schedule = Schedule.of_bag_sizes((patch_size, 1), (0, round(share * steps)), constant_tokens=True)
    assert schedule.data_tokens(steps, rows * length) == steps * 2_097_152
    assert schedule.positions(steps, rows * length) / (steps * rows * length) == pytest.approx(
        share / patch_size + 1 - share
    )
    patches, tokens = schedule.stages
    assert (rows // patches.row_divisor) * length * patches.bag_size == 2_097_152 == rows * length
    assert length * patches.bag_size == 8192
    assert (tokens.row_divisor, tokens.bag_size) == (1, 1)


def test_stages_without_steps_or_alike_are_one():
    assert Schedule.of_bag_sizes((8, 4, 1), (0, 0, 3)) == Schedule.superposition(4, 3)
    assert Schedule.of_bag_sizes((2, 1, 1), (0, 3, 5)) == Schedule.superposition(2, 3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "starts at step 0"),
        ((Stage(1, 1, 1),), "starts at step 0"),
        ((Stage(0, 2, 2), Stage(0, 1, 1)), "increasing"),
        ((Stage(0, 0, 1),), "at least one token"),
    ],
)
def test_impossible_schedules_are_refused(stages, message):
    with pytest.raises(UserError, match=message):
        Schedule(stages)
