"""Any value of any option either makes what it configures or is refused in a message: no other exception, no hang.

Values go in as a config file gives them, through the parser, which checks types; the classes check the rest.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from malformed_cases import one_message

from callbacks import LengthCurriculum, NgramTargets, StepCheckpoint, SuperpositionCallback, Throughput
from tst_lightning import cli
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.tokenizer import TrainedBPE
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.parsing.errors import as_user_error

NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 2**31, 2**63, 10**30, -(10**30), 0.0, 0.3, 1.0, 1.5, -0.0, 5e-324, 1e308]),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
)
ANYTHING = st.one_of(
    NUMBERS, st.booleans(), st.none(), st.text(max_size=8), st.lists(NUMBERS, max_size=4),
    st.dictionaries(st.text(max_size=4), NUMBERS, max_size=2),
)  # fmt: skip
QUICK = settings(derandomize=True, max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def options(**usual: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the options, each usually as it should be, so that deeper checks are reached too."""
    values = {name: st.one_of(st.just(value), st.just(value), ANYTHING) for name, value in usual.items()}
    return st.fixed_dictionaries({}, optional=values)


@functools.cache
def parser_of(kind: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--options", type=kind)
    return parser


def made(kind: type, values: dict[str, Any]) -> Any:
    """What the parser makes of the values; None if they are refused as they should be."""
    parser = parser_of(kind)
    path = f"{kind.__module__}.{kind.__qualname__}"
    given = values if dataclasses.is_dataclass(kind) else {"class_path": path, "init_args": values}
    try:
        with as_user_error():
            return parser.instantiate(parser.parse_object({"options": given})).options
    except UserError:
        return None


@QUICK
@given(
    options(
        bag_size=4, step_ratio=0.3, recovery_step=3, bag_sizes=[4, 2, 1], step_shares=[0.2, 0.2, 0.6],
        fraction_of="data", tokens_per_step="constant", weights="power_law", loss="hinge", interpolate=0.2,
        superpose_inputs=False, superpose_outputs=False, on_switch="restart", reinitialize="none",
    ),
    st.integers(1, 10**12),
)  # fmt: skip
def test_superposition(values, max_steps):
    callback = made(SuperpositionCallback, values)
    if callback is not None:
        try:
            schedule = callback.stages.schedule(max_steps)
        except UserError:
            return
        assert 0 <= schedule.last_switch < max_steps


@QUICK
@given(options(bag_size=4, step_ratio=0.3, weights=[1.0, 0.5, 0.2, 0.1]))
def test_weights_of_bags(values):
    callback = made(SuperpositionCallback, {"bag_size": 4, "step_ratio": 0.3} | values)
    for weights in callback.weights.values() if callback is not None else ():
        assert sum(weights) == pytest.approx(1)
        assert all(0 <= weight <= 1 for weight in weights)


@QUICK
@given(
    options(warmup_steps=3, decay_ratio=0.1, final_ratio=0.1, decay_shape="cosine"),
    st.integers(1, 10**9), st.integers(0, 10**9),
)  # fmt: skip
def test_learning_rate(values, max_steps, step):
    schedule = made(WarmupStableDecay, values)
    if schedule is not None:
        assert 0 <= schedule.factor(step, max_steps) <= 1


CLASSES = {
    LengthCurriculum: {"min_length": 4, "curriculum": "uniform", "cycles": 2, "long_documents": "longest"},
    NgramTargets: {"table": "t", "alpha": 0.5, "alpha_end": 0.1, "anneal_start": 0.1, "anneal_end": 0.9},
    StepCheckpoint: {"every_n_steps": 2, "keep_all": True, "dirpath": "x"},
    Throughput: {"every_n_seconds": 2.0},
    MultiToken: {"heads": 2, "weight": 0.1},
    NgramOptions: {"n": 3, "r": 4, "min_count": 1, "rule": "A", "seed": 1},
    TrainedBPE: {"vocab_size": 300, "sample_bytes": 1000, "document_sample_bytes": 10},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_other_class(kind):
    @QUICK
    @given(options(**CLASSES[kind]))
    def try_one(values):
        made(kind, values)

    try_one()


@QUICK
@given(
    options(
        sequence_length=16, batch_size=4, seed=1, epochs=2, rows_per_group=4, packing="best_fit",
        isolate_documents=True,
        fold_by_document=True,
        packing_rows=8, validation_batch_size=2, validation_windows=8, num_workers=0, streams=2,
        shuffle_shards=2, cache_bytes=1000,
    ),
    st.integers(1, 10**12),
)  # fmt: skip
def test_data(prepared_source, values, max_steps):
    module = made(TokenDataModule, {"data_dir": str(prepared_source), "sequence_length": 16, "batch_size": 4} | values)
    if module is not None:
        with contextlib.suppress(UserError):
            module.check(max_steps, accumulate=1, world_size=1)


def keys(values: Any, path: tuple = ()) -> list[tuple]:
    """Where values are in nested mappings."""
    found = [path] if path else []
    if isinstance(values, dict):
        found += [place for key, value in values.items() for place in keys(value, (*path, key))]
    return found


def replaced(values: dict, path: tuple, new: Any) -> dict:
    key, *rest = path
    return values | {key: replaced(values[key], tuple(rest), new) if rest else new}


EXPERIMENT = {
    "name": "e", "seeds": [1], "baseline": "baseline", "lengths": [2, 4], "halving": 0.5, "vary": "both", "title": "t",
    "base": {"configs": ["{world}/fit.yaml"], "overrides": {"trainer.val_check_interval": 1}},
    "arms": {"baseline": {}, "a{s}": {"grid": {"s": [1, 2]}, "overrides": {"data.batch_size": "{s}"}},
             "b": {"compare_with": ["a1"], "lengths": [2, 4]}},
    "evaluation": {"tasks": ["heldout"], "limit": 3, "arms": ["*"]}, "budget_hours": 1.0, "only": ["*"],
    "max_arms_at_once": 1, "threads_per_arm": 1,
}  # fmt: skip
PREPARATION = {
    "source": {"class_path": "JsonLines", "init_args": {"paths": ["a.jsonl"], "text_field": "text"}},
    "tokenizer": {"class_path": "TrainedBPE", "init_args": {"vocab_size": 300}},
    "validation_fraction": 0.1, "shard_tokens": 100, "token_dtype": "auto", "part_bytes": 100, "max_documents": 5,
    "max_bytes": 5, "max_tokens": 5, "deduplicate": False, "evaluation_items": 3, "seed": 1, "workers": 1,
    "engine": "processes", "overwrite": False,
}  # fmt: skip


def tried(command: str, values: dict, here, capsys) -> str:
    """The command with a config of these values ends well or with one message, which is returned."""
    path = here / "fuzzed.yaml"
    path.write_text(yaml.safe_dump(values))
    capsys.readouterr()
    extra = ["--trainer.default_root_dir=run"] if command == "fit" else ["--output_dir=out"]
    status = cli.main([command, "--config", str(path), *extra])
    shown = capsys.readouterr().err
    assert status in (0, 2)
    if status == 2:
        one_message(shown)
    return shown


def fuzz(command: str, sound: dict, examples: int, here, capsys) -> None:
    @settings(QUICK, max_examples=examples)
    @given(st.sampled_from(keys(sound)), ANYTHING)
    def try_one(path, value):
        tried(command, replaced(sound, path, value), here, capsys)

    assert "error: " not in tried(command, sound, here, capsys)
    try_one()


@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_experiments(examples, here, world, capsys, monkeypatch):
    started = []
    monkeypatch.setattr("tst_lightning.comparison.command.run_experiment", lambda *_, **__: started.append(1))
    sound = yaml.safe_load(yaml.safe_dump(EXPERIMENT).replace("{world}", str(world)))
    fuzz("compare", sound, examples, here, capsys)
    assert started, "the sound experiment has been refused"


@pytest.mark.parametrize("examples", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_preparations(examples, here, capsys, monkeypatch):
    (here / "a.jsonl").write_text('{"text": "x"}\n')
    asked = []
    monkeypatch.setattr("tst_lightning.data.prepare.already_prepared", lambda *_: asked.append(1) or True)
    fuzz("prepare", PREPARATION, examples, here, capsys)
    assert asked, "the sound options have been refused"


@pytest.mark.parametrize("examples", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_fits(examples, here, world, capsys, monkeypatch):
    started = []
    monkeypatch.setattr("lightning.pytorch.Trainer._fit_impl", lambda *_, **__: started.append(1))
    # Several devices are several processes, each of which would be this very program: these tests.
    monkeypatch.setattr(_SubprocessScriptLauncher, "_call_children_scripts", lambda _: None)
    fuzz("fit", yaml.safe_load((world / "fit.yaml").read_text()), examples, here, capsys)
    assert started, "the sound run has been refused"
