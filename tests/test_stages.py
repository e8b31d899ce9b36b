"""Options to schedules, against shares counted by hand and by walking; and every option that is refused."""

import pytest

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule
from tst_lightning.stages import SuperpositionStages


def test_one_bag_size_and_a_ratio():
    assert SuperpositionStages(bag_size=4, step_ratio=0.3).schedule(100) == Schedule.superposition(4, 30)
    assert SuperpositionStages(bag_size=4, recovery_step=7).schedule(100) == Schedule.superposition(4, 7)


@pytest.mark.parametrize(
    ("options", "first_steps"),
    [
        ({"step_ratio": 0.3}, [0, 10, 20, 30]),
        ({"step_shares": (0.1, 0.2, 0.4, 0.3)}, [0, 10, 30, 70]),
        ({"step_shares": (0.0, 0.2, 0.4, 0.4)}, [0, 20, 60]),
    ],
)
def test_several_bag_sizes_one_after_the_other(options, first_steps):
    schedule = SuperpositionStages(bag_sizes=(8, 4, 2, 1), **options).schedule(100)
    assert [stage.first_step for stage in schedule.stages] == first_steps
    assert [stage.bag_size for stage in schedule.stages] == [8, 4, 2, 1][-len(first_steps) :]


@pytest.mark.parametrize("tokens_per_step", ["scaled", "constant"])
@pytest.mark.parametrize("options", [
    {"bag_size": 4, "step_ratio": 2 / 3}, {"bag_sizes": (8, 4, 2, 1), "step_shares": (0.2, 0.1, 0.3, 0.4)},
])  # fmt: skip
def test_a_share_of_the_data_is_one(options, tokens_per_step):
    """Whatever a step reads, the superposed stages read their share of all the text, to half a step."""
    steps, positions = 10_000, 64
    schedule = SuperpositionStages(fraction_of="data", tokens_per_step=tokens_per_step, **options).schedule(steps)
    tokens = [count * positions // stage.row_divisor * stage.bag_size for stage, count in schedule.spans(steps)]
    wanted = options.get("step_shares", (2 / 3, 1 / 3))
    assert [count / sum(tokens) for count in tokens] == pytest.approx(wanted, abs=5e-4)


def test_patch_levels_lambda_is_tsts_ratio():
    """methods: lambda = r*s / (r*s + 1 - r); K=4 and lambda=2/3 are s=4 and r=1/3."""
    of_data = SuperpositionStages(bag_size=4, step_ratio=2 / 3, fraction_of="data").schedule(3000)
    assert of_data == SuperpositionStages(bag_size=4, step_ratio=1 / 3).schedule(3000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_ratio": 0.3}, "exactly one of bag_size .* and bag_sizes"),
        ({"bag_size": 4, "bag_sizes": (4, 1), "step_ratio": 0.3}, "exactly one of bag_size"),
        ({"bag_size": 4}, "exactly one of step_ratio"),
        ({"bag_size": 4, "step_ratio": 0.3, "recovery_step": 3}, "step_ratio=0.3, recovery_step=3"),
        ({"bag_size": 0, "step_ratio": 0.3}, "bag_size=0"),
        ({"bag_size": 4, "step_ratio": 1.0}, "step_ratio=1.0"),
        ({"bag_size": 4, "recovery_step": -1}, "recovery_step=-1"),
        ({"bag_sizes": (8, 4, 2), "step_ratio": 0.3}, "of which the last is 1"),
        ({"bag_sizes": (1,), "step_ratio": 0.3}, "two or more"),
        ({"bag_sizes": (8, 1), "recovery_step": 3}, "give step_ratio or step_shares"),
        ({"bag_size": 8, "recovery_step": 3, "fraction_of": "data"}, "give step_ratio or step_shares"),
        ({"bag_sizes": (8, 1), "step_shares": (0.5, 0.3)}, "summing to 1"),
        ({"bag_sizes": (8, 1), "step_shares": (0.5, 0.3, 0.2)}, "one share for each"),
        ({"bag_size": 8, "step_shares": (0.5, 0.5)}, "not given"),
        ({"bag_size": 8, "step_ratio": 0.5, "fraction_of": "tokens"}, "fraction_of='tokens': choose steps or data"),
        ({"bag_size": 8, "step_ratio": 0.5, "tokens_per_step": "constant", "superpose_inputs": False}, "leave tokens_"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SuperpositionStages(**options)


def test_a_run_without_recovery_is_refused():
    with pytest.raises(UserError, match="leaves no recovery"):
        SuperpositionStages(bag_size=4, recovery_step=10).schedule(10)
    with pytest.raises(UserError, match="leaves no recovery"):
        SuperpositionStages(bag_sizes=(4, 1), step_shares=(1.0, 0.0)).schedule(10)


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"bag_size": 4, "step_ratio": 0.3}, 1, "bags of 4 tokens .* share of 0.3 of the steps, .*max_steps=1:"),
        ({"bag_sizes": (8, 4, 1), "step_shares": (0.5, 0.01, 0.49)}, 40, "bags of 4 tokens .* 0.01 of the steps"),
        ({"bag_sizes": (8, 4, 1), "step_ratio": 0.02}, 40, "bags of 8 tokens .* 0.01 of the steps"),
        ({"bag_size": 4, "step_ratio": 0.1, "fraction_of": "data"}, 10, "bags of 4 tokens .* 0.1 of the data"),
    ],
)
def test_a_stage_that_no_step_is_left_for_is_refused(options, steps, message):
    with pytest.raises(UserError, match=message):
        SuperpositionStages(**options).schedule(steps)
    assert len(SuperpositionStages(**options).schedule(1000).stages) == len(options.get("bag_sizes", (4, 1)))


def test_stages_without_a_share_or_without_bags_may_have_no_step():
    assert SuperpositionStages(bag_size=1, step_ratio=0.3).schedule(1) == Schedule()
    assert SuperpositionStages(bag_size=4, step_ratio=0).schedule(1) == Schedule()
    assert SuperpositionStages(bag_size=4, recovery_step=0).schedule(1) == Schedule()
