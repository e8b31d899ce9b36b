"""tst_lightning.run.length: how to train on when a run is done, and a warm-up that outlasts the run."""

import re
import shlex
from types import SimpleNamespace

import pytest
import yaml

from callbacks import LossGuard, SuperpositionCallback
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.run.length import done, warm_up_beyond_end


def test_how_to_train_on_without_a_switch_that_moves() -> None:
    expected = "this run has done its 60 steps; to train on: --trainer.max_steps N, N above 60"
    assert done(60) == expected
    assert done(60, [LossGuard(), SuperpositionCallback(bag_size=4, recovery_step=30)]) == expected


@pytest.mark.parametrize("options", [{"step_ratio": 0.5}, {"step_ratio": 0.8, "fraction_of": "data"}])
def test_the_flags_leave_the_switch_where_it_was(options: dict) -> None:
    before = SuperpositionCallback(bag_size=4, **options)
    message = done(60, [LossGuard(), before])
    flags = shlex.split(re.search(r"N above 60, with (--.*) \(of SuperpositionCallback", message)[1])
    changes = dict(flag.removeprefix("--trainer.callbacks.").split("=") for flag in flags)
    after = SuperpositionCallback(bag_size=4, **options | {name: yaml.safe_load(v) for name, v in changes.items()})
    assert after.stages.schedule(90) == before.stages.schedule(60)
    assert message.endswith(f"the switch stays at step {before.stages.schedule(60).last_switch}")


def test_several_stages_depend_on_the_length() -> None:
    callback = SuperpositionCallback(bag_sizes=[8, 4, 1], step_ratio=0.5)
    assert done(60, [callback]).endswith("depend on N, and the refusal names them")


def test_a_warm_up_that_outlasts_the_run() -> None:
    message = warm_up_beyond_end(WarmupStableDecay(warmup_steps=100), 60)
    assert "warmup_steps=100 is more than trainer.max_steps=60: " in message
    assert f"to {WarmupStableDecay(warmup_steps=100).factor(59, 60):.3g} of its full value" in message
    assert "\n" not in message
    for schedule, steps in ((100, 100), (100, -1), (0, 60)):
        assert warm_up_beyond_end(WarmupStableDecay(warmup_steps=schedule), steps) is None
    assert warm_up_beyond_end(SimpleNamespace(warmup_steps=100), 60) is None
