"""tst_lightning.schedule_change: what is advised, when followed, is the checkpoint's schedule."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from callbacks import SuperpositionCallback
from tst_lightning.comparison.design.configured import SUPERPOSITION, callback_options
from tst_lightning.learning_rate import Restart, WarmupStableDecay
from tst_lightning.run.lightning_cli import parse_fit
from tst_lightning.schedule import Schedule
from tst_lightning.schedule_change import ScheduleChange, in_words
from tst_lightning.stages import SuperpositionStages

CONFIGS = Path(__file__).parents[1] / "configs"


def change(saved: Schedule, now: Schedule, saved_steps: int | None, now_steps: int, step: int | None = None):
    return ScheduleChange(saved.as_dict(), now, saved_steps, now_steps, step)


def flags(message: str) -> list[str]:
    """The options of a `fit` that a message says to give."""
    return shlex.split(re.search(r"give ('?--.*?)( \(of SuperpositionCallback, .*?\))? to go on", message)[1])


def advised(message: str, **options) -> SuperpositionStages:
    """A run's options, changed as a message says and no more."""
    for flag in flags(message):
        name, _, value = flag.removeprefix("--trainer.callbacks.").partition("=")
        if flag != "--trainer.callbacks+=callbacks.SuperpositionCallback":
            value = yaml.safe_load(value)
            options[name] = tuple(value) if isinstance(value, list) else value
    return SuperpositionStages(**options)


def test_a_finished_run_made_longer() -> None:
    stages = SuperpositionStages(bag_size=4, step_ratio=0.3)
    made = change(stages.schedule(1000), stages.schedule(2000), 1000, 2000, step=1000)
    assert made.message(WarmupStableDecay(warmup_steps=10)) == (
        "the switch was at step 300 of 1000 in this checkpoint and would now be at step 600 of 2000: give "
        "--trainer.callbacks.recovery_step=300 --trainer.callbacks.step_ratio=null (of SuperpositionCallback, which "
        "has to be the last of trainer.callbacks) to go on, or leave it at --trainer.max_steps 1000, which it has "
        "done, or start a new run without --ckpt_path. The learning rate is planned over max_steps too: with 2000 its "
        "factor goes from 0.01 to 1 at step 1000, and its decay ends at step 2000 instead of 1000"
    )
    unfinished = change(stages.schedule(1000), stages.schedule(2000), 1000, 2000, step=700)
    assert ", or go on with --trainer.max_steps 1000, or start" in unfinished.message()
    assert "its factor stays 1 at step 700" in unfinished.message(WarmupStableDecay(warmup_steps=10))


def test_a_checkpoint_of_an_earlier_release_does_not_know_its_length() -> None:
    stages = SuperpositionStages(bag_size=4, step_ratio=0.3)
    message = change(stages.schedule(1000), stages.schedule(2000), None, 2000).message(WarmupStableDecay())
    assert message.startswith("the switch was at step 300 in this checkpoint and would now be at step 600 of 2000: ")
    assert "--trainer.max_steps" not in message
    assert "learning rate" not in message


def test_the_restart_stays_where_the_checkpoint_has_it() -> None:
    """Both parts of patch-level training have a schedule of their own, and the first part stays as it was."""
    stages, rate = SuperpositionStages(bag_size=4, step_ratio=0.3), WarmupStableDecay(decay_ratio=1.0)
    made = change(stages.schedule(1000), stages.schedule(2000), 1000, 2000, step=200)
    expected = rate.factor(199, 300), rate.factor(200, 300)
    assert f"goes from {expected[0]:.3g} to {expected[1]:.3g} at step 200" in made.message(rate, Restart(600, True))


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"bag_size": 4, "step_ratio": 0.3}, {}),
        ({"bag_size": 4, "step_ratio": 0.3}, {"bag_size": 8}),
        ({"bag_size": 4, "recovery_step": 250}, {"bag_size": 1}),
        ({"bag_size": 4, "step_ratio": 0.6, "fraction_of": "data", "tokens_per_step": "constant"}, {}),
        ({"bag_size": 4, "step_ratio": 0.6}, {"tokens_per_step": "constant"}),
        ({"bag_size": 4, "step_ratio": 0.3, "superpose_inputs": False}, {"superpose_inputs": True}),
        ({"bag_size": 4, "step_ratio": 0.3}, {"superpose_inputs": False}),
        ({"bag_sizes": (8, 4, 2, 1), "step_ratio": 0.37}, {}),
        ({"bag_sizes": (8, 4, 2, 1), "step_ratio": 0.37}, {"bag_sizes": None, "bag_size": 4}),
        ({"bag_sizes": (8, 4, 1), "step_shares": (0.11, 0.22, 0.67)}, {"step_shares": (0.22, 0.11, 0.67)}),
        ({"bag_sizes": (8, 4, 2, 1), "step_ratio": 0.37, "fraction_of": "data"}, {"fraction_of": "steps"}),
    ],
)
@pytest.mark.parametrize("now_steps", [997, 2003])
def test_the_advice_gives_the_schedule_of_the_checkpoint(options: dict, other: dict, now_steps: int) -> None:
    saved = SuperpositionStages(**options).schedule(997)
    now = SuperpositionStages(**options | other).schedule(now_steps)
    if saved == now:  # a recovery_step, or nothing that differs
        return
    message = change(saved, now, 997, now_steps).message()
    assert advised(message, **options | other).schedule(now_steps) == saved
    assert ("--trainer.max_steps 997" in message) == (now_steps != 997 and not other)
    assert not re.search("[{}]", message)


@pytest.mark.parametrize(
    ("method", "saved"),
    [
        ([], {"bag_size": 4, "recovery_step": 30}),
        (["method/tst"], {"bag_sizes": (6, 3, 1), "step_ratio": 0.4}),
        (["method/multi_stage"], {"bag_size": 4, "recovery_step": 30}),
    ],
)
def test_fits_own_parser_takes_the_flags(method: list[str], saved: dict) -> None:
    names = ["model/llama_250k", "data/demo", "trainer/cpu", *method]
    arguments = [f"--config={CONFIGS / name}.yaml" for name in names]
    now = Schedule()
    if own := callback_options(parse_fit(arguments), SUPERPOSITION):
        now = SuperpositionCallback(**own).stages.schedule(80)
    wanted = SuperpositionStages(**saved).schedule(60)
    again = parse_fit([*arguments, *flags(change(wanted, now, 60, 80).message())])
    assert SuperpositionCallback(**callback_options(again, SUPERPOSITION)).stages.schedule(80) == wanted


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ((60, 80), None),
        ((60, 200), "goes from 0.6 to 0.61 at step 60, and it decays until step 200, where it had no decay"),
        ((200, 80), "goes from 0.6 to 0.61 at step 60, and it has no decay"),
        ((200, 400), "and its decay ends at step 400 instead of 200"),
    ],
)
def test_no_decay_where_the_warm_up_lasts_until_the_end(steps: tuple[int, int], says: str | None) -> None:
    stages, rate = SuperpositionStages(bag_size=4, step_ratio=0.3), WarmupStableDecay(warmup_steps=100)
    message = change(*map(stages.schedule, steps), *steps, step=60).message(rate)
    assert ("learning rate" in message) == (says is not None)
    assert says is None or re.search(says, message)


def test_a_switch_beyond_the_new_end_has_no_options() -> None:
    stages = SuperpositionStages(bag_size=4, step_ratio=0.5)
    message = change(stages.schedule(1000), stages.schedule(400), 1000, 400, step=100).message()
    assert "recovery_step" not in message
    assert "go on with --trainer.max_steps 1000" in message


def test_with_and_without_superposition() -> None:
    tst = SuperpositionStages(bag_size=4, recovery_step=3).schedule(9)
    assert change(tst, Schedule(), 9, 9).message() == (
        "the checkpoint was trained with bags of 4 tokens from step 0, single tokens from step 3 of 9, and this run has"
        " single tokens from step 0 of 9: give --trainer.callbacks+=callbacks.SuperpositionCallback "
        "--trainer.callbacks.bag_size=4 --trainer.callbacks.recovery_step=3 to go on, or start a new run without "
        "--ckpt_path"
    )
    assert "leave SuperpositionCallback out, or start a new run" in change(Schedule(), tst, 9, 9).message()


def test_long_schedules_are_short_in_words() -> None:
    many = Schedule.of_bag_sizes(range(9, 0, -1), range(0, 90, 10))
    assert in_words(many.as_dict()).endswith("bags of 4 tokens from step 50 and 3 more stages")
    fingerprint = Schedule.of_bag_sizes(range(100, 0, -1), range(100)).as_dict()
    assert re.fullmatch(r"a schedule of 100 stages \(fingerprint [0-9a-f]{12}\)", in_words(fingerprint))
