import copy

import pytest
import yaml

from tst_lightning.comparison.analysis.settings import differing_settings, settings

EARLIER = {
    "trainer": {
        "callbacks": [
            {
                "class_path": "callbacks.SuperpositionCallback",
                "init_args": {"bag_size": 4, "step_ratio": 0.3, "recovery_step": None, "weights": "uniform"},
            }
        ],
    },
    "model": {"init_seed": 1, "learning_rate_schedule": {"warmup_steps": 100, "decay_ratio": 0.1}},
    "data": {"data_dir": "data/x", "isolate_documents": False},
}
"""As runs were saved before the program had the options of `ADDED`."""
ADDED = {
    "trainer": {
        "bag_sizes": None,
        "step_shares": None,
        "fraction_of": "steps",
        "tokens_per_step": "scaled",
        "weights_file": None,
        "loss": "multi_hot",
        "interpolate": 0.0,
        "on_switch": "carry",
        "reinitialize": "none",
    },
    "model": {"compilation": "none", "multi_token": None},
    "learning_rate_schedule": {"decay_shape": "linear"},
    "data": {"fold_by_document": False, "verify_shards": "background"},
}


def later(**changes: object) -> dict:
    """The same run saved by the present program, with other values for some of the added options."""
    values = copy.deepcopy(EARLIER)
    parts = {
        "trainer": values["trainer"]["callbacks"][0]["init_args"],
        "learning_rate_schedule": values["model"]["learning_rate_schedule"],
        "model": values["model"],
        "data": values["data"],
    }
    for name, part in parts.items():
        part |= ADDED[name] | {option: value for option, value in changes.items() if option in ADDED[name]}
    return values


def told_apart(one: dict, other: dict) -> list[str]:
    return differing_settings(settings(yaml.safe_dump(one)), settings(yaml.safe_dump(other)))


def test_defaults_that_came_later_change_nothing() -> None:
    assert told_apart(EARLIER, later()) == told_apart(later(), EARLIER) == []


@pytest.mark.parametrize(
    "callback", ["LossGuard", "StepCheckpoint", "Throughput", "BranchPoints", "DownstreamEvaluation"]
)
def test_a_callback_more_that_looks_on_changes_nothing(callback: str) -> None:
    watched = later()
    watched["trainer"]["callbacks"].append({"class_path": f"callbacks.{callback}", "init_args": {"window_steps": 50}})
    assert told_apart(EARLIER, watched) == told_apart(watched, EARLIER) == []
    bare, only_watched = (
        {"trainer": {"callbacks": None}},
        {"trainer": {"callbacks": watched["trainer"]["callbacks"][1:]}},
    )
    assert told_apart({}, only_watched) == told_apart(only_watched, {}) == []
    assert told_apart(bare, EARLIER) != []


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("fold_by_document", True, "data.fold_by_document"),
        ("verify_shards", "none", "data.verify_shards"),
        ("compilation", "lazy", "model.compilation"),
        ("decay_shape", "cosine", "model.learning_rate_schedule.decay_shape"),
        ("loss", "hinge", "trainer.callbacks.SuperpositionCallback.loss"),
        ("on_switch", "restart", "trainer.callbacks.SuperpositionCallback.on_switch"),
    ],
)
def test_other_values_of_them_do(option: str, value: object, key: str) -> None:
    assert told_apart(EARLIER, later(**{option: value})) == [f"{key}: nothing against {value}"]
    heads = later(multi_token={"heads": 2, "weight": 0.1})
    assert told_apart(EARLIER, heads)[0] == "model.multi_token.heads: nothing against 2"


def test_the_same_defaults_as_the_program_has() -> None:
    """A default that changes is no longer what runs did before."""
    import inspect

    from callbacks import SuperpositionCallback
    from tst_lightning.data.datamodule import TokenDataModule
    from tst_lightning.learning_rate import WarmupStableDecay
    from tst_lightning.module import CausalLMModule

    classes = {
        "trainer": SuperpositionCallback,
        "model": CausalLMModule,
        "learning_rate_schedule": WarmupStableDecay,
        "data": TokenDataModule,
    }
    for name, one in classes.items():
        parameters = inspect.signature(one).parameters
        assert {option: parameters[option].default for option in ADDED[name]} == ADDED[name]
