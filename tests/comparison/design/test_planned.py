import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from callbacks import SuperpositionCallback
from tst_lightning.accounting import flops_per_position
from tst_lightning.comparison.design import planned as planned_module
from tst_lightning.comparison.design.flops import planned_flops_per_position
from tst_lightning.comparison.design.planned import PlannedRun, plan_of, require_final_validation, require_tables
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.schedule import Schedule
from tst_lightning.stages import SuperpositionStages

CONFIG = {
    "trainer": {"max_steps": 3000, "accumulate_grad_batches": 2, "callbacks": None, "val_check_interval": 100},
    "data": {"batch_size": 8, "sequence_length": 256},
    "model": {"learning_rate_schedule": {"warmup_steps": 100, "decay_ratio": 0.1, "final_ratio": 0.0}},
}
OPTIONS = {"bag_size": 4, "step_ratio": 0.3, "recovery_step": None, "superpose_inputs": True}

NGRAM_TARGETS = {"class_path": "callbacks.NgramTargets", "init_args": {"table": "tables/a"}}


def config(superposition: dict | None = None, **trainer: object) -> dict:
    values = copy.deepcopy(CONFIG)
    values["trainer"] |= trainer
    if superposition is not None:
        callback = {"class_path": "callbacks.SuperpositionCallback", "init_args": OPTIONS | superposition}
        values["trainer"]["callbacks"] = [{"class_path": "callbacks.Throughput", "init_args": {}}, callback]
    return values


def test_the_baseline_reads_one_token_a_position() -> None:
    plan = plan_of(config())
    assert (plan.max_steps, plan.positions_per_step, plan.schedule) == (3000, 2 * 8 * 256, Schedule())
    assert plan.data_tokens == 3000 * 4096


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step_ratio": 0.5, "bag_size": 8},
        {"step_ratio": None, "recovery_step": 700},
        {"superpose_inputs": False},
        {"step_ratio": 0.0},
        {"bag_size": 1},
        {"bag_size": None, "bag_sizes": [8, 4, 2, 1]},
        {"bag_size": None, "step_ratio": None, "bag_sizes": [8, 2, 1], "step_shares": [0.1, 0.2, 0.7]},
        {"tokens_per_step": "constant", "fraction_of": "data", "step_ratio": 2 / 3},
    ],
)
def test_the_schedule_is_the_one_that_the_callback_sets(options: dict) -> None:
    class Data:
        def set_schedule(self, schedule: Schedule) -> None:
            self.schedule = schedule

    class Module:
        def loss(self) -> None: ...

        def get_input_embeddings(self) -> None: ...

    class Trainer:
        max_steps, datamodule = 3000, Data()

    SuperpositionCallback(**OPTIONS | options).setup(Trainer(), Module(), "fit")
    assert plan_of(config(options)).schedule == Trainer.datamodule.schedule


def test_equal_data_by_hand() -> None:
    plan = plan_of(config({}))
    # N * (r*s + 1 - r) = 3000 * (1.2 + 0.7); twice as many steps of half the positions
    assert plan.data_tokens == 4096 * 5700
    assert plan.steps_for_the_same_data(4096) == 5700
    assert plan.steps_for_the_same_data(2048) == 11400
    # 900 steps of 4 and 2100 of 1 are 5700; 7 % more positions a step: 5327.1 steps
    assert plan.steps_for_the_same_data(4383) == 5327


def test_a_run_without_a_length() -> None:
    with pytest.raises(UserError, match=r"trainer\.max_steps is -1"):
        plan_of(config(max_steps=-1))


@pytest.mark.parametrize(("interval", "steps"), [(100, 4800), (0.1, 4800), (64, 4800), (0.25, 4800), (1.0, 4800)])
def test_as_many_steps_as_cost_the_same_in_whole_intervals(monkeypatch, interval, steps) -> None:
    """Patches of 4 in half of the steps cost 5/8 of a step: 3,000 steps' FLOPs are 4,800; 2 batches are a step."""
    monkeypatch.setattr(planned_module, "planned_flops_per_position", lambda config: 10)
    patches = {"tokens_per_step": "constant", "step_ratio": 0.5}
    plan = plan_of(config(patches, val_check_interval=interval))
    found = plan.steps_for_flops(plan_of(config()).flops)
    assert found == steps
    require_final_validation({"a": plan_of(config(patches, val_check_interval=interval, max_steps=found))})


def test_intervals_too_wide_for_equal_flops_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 350 steps: 4,900 of 4,800, which is 2.1 % more; at most 0.02 * 4,900 steps of 2 batches do."""
    monkeypatch.setattr(planned_module, "planned_flops_per_position", lambda config: 10)
    patches = {"tokens_per_step": "constant", "step_ratio": 0.5}
    flops = plan_of(config()).flops
    message = r"350 steps, 4900 steps come nearest, and cost 2\.1% more: .*val_check_interval: 0\.25, .* 196 batches"
    with pytest.raises(UserError, match=message):
        plan_of(config(patches, val_check_interval=700)).steps_for_flops(flops)
    assert plan_of(config(patches, val_check_interval=196)).steps_for_flops(flops) == 49 * 98


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"step_ratio": None, "recovery_step": 3500}, 5625), ({"step_ratio": 2 / 3, "fraction_of": "data"}, 6000)],
)
def test_lengths_without_a_recovery_cost_nothing(monkeypatch, options: dict, steps: int) -> None:
    """3,500 steps of a quarter and 2,125 whole ones; of the data 2/3 are 2/3 of the steps: 6,000 of (2/12 + 1/3)."""
    monkeypatch.setattr(planned_module, "planned_flops_per_position", lambda config: 10)
    plan = plan_of(config({"tokens_per_step": "constant"} | options, val_check_interval=None, max_steps=9000))
    assert plan.steps_for_flops(plan_of(config()).flops) == steps


def test_a_recovery_that_does_not_fit_into_the_flops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_module, "planned_flops_per_position", lambda config: 10)
    plan = plan_of(config({"step_ratio": None, "recovery_step": 2999}, val_check_interval=2))
    with pytest.raises(UserError, match="until step 2999 leaves no recovery"):
        plan.steps_for_flops(plan_of(config(max_steps=1000)).flops)


def test_what_a_step_of_a_curriculum_costs_is_not_known() -> None:
    plan = plan_of(config(callbacks=[{"class_path": "callbacks.LengthCurriculum"}]))
    with pytest.raises(UserError, match="depends on the lengths of the documents"):
        plan.steps_for_flops(1)
    with pytest.raises(UserError, match="depends on the lengths of the documents"):
        _ = plan.flops


@pytest.mark.parametrize(
    ("name", "options"), [("SuperpositionCallback", {"weights_file": "none.json"}), ("NgramTargets", {"table": "none"})]
)
def test_arms_without_their_table_are_refused(name: str, options: dict) -> None:
    plain = plan_of(config())
    require_tables({"plain": plain})
    callbacks = [{"class_path": f"callbacks.{name}", "init_args": options}]
    planned = replace(plain, config=config(callbacks=callbacks))
    with pytest.raises(UserError, match=f"arm 'x': .*{next(iter(options.values()))}"):
        require_tables({"plain": plain, "x": planned})


def test_weights_from_a_file_and_by_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mutual_information.json"
    fit = {"c0": 0.0, "a": 1.0, "k": -1.0}
    file.write_text(json.dumps({"format_version": 1, "tokenizer_hash": "t", "corpus_hash": "c", "fit": fit}))
    require_tables({"x": plan_of(config({"weights_file": str(file)}))})
    both = {"weights_file": str(file), "weights": "power_law"}
    with pytest.raises(UserError, match=r"arm 'x': weights_file=.* goes neither with weights='power_law'"):
        require_tables({"x": plan_of(config(both))})


def test_flops_are_those_that_the_run_counts() -> None:
    sizes = {"vocab_size": 57, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    options = sizes | {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    values = config()
    values["model"]["config"] = {"class_path": "transformers.LlamaConfig", "init_args": options}
    model = LlamaForCausalLM(LlamaConfig(**options))
    assert planned_flops_per_position(values) == flops_per_position(model, 256)
    values["model"]["config"]["dict_kwargs"] = {"head_dim": 32}
    wide = LlamaForCausalLM(LlamaConfig(**options, head_dim=32))
    assert planned_flops_per_position(values) == flops_per_position(wide, 256) != flops_per_position(model, 256)
    del values["model"]["config"]["dict_kwargs"]
    values["model"]["multi_token"] = {"heads": 2, "weight": 0.1}
    added = 2 * (2 * 16 * 16 + 57 * 16)  # of each head two square matrices and the shared output matrix
    assert planned_flops_per_position(values) == flops_per_position(model, 256) + 6 * added
    values["model"] = {"pretrained": "somewhere", "config": None}
    with pytest.raises(UserError, match="pretrained='somewhere'"):
        planned_flops_per_position(values)


def planned(steps: int, stages: dict | None = None, **rate: float) -> PlannedRun:
    rate = {"warmup_steps": 3, "decay_ratio": 0.1} | rate
    superposition = SuperpositionStages(bag_size=4, **stages) if stages else None
    return PlannedRun({}, steps, 1, superposition, None, WarmupStableDecay(**rate))


@pytest.mark.parametrize("decay_ratio", [0.05, 0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("steps", [20, 45, 55, 75, 99])
def test_up_to_the_branch_step_both_runs_have_the_same_learning_rate(decay_ratio: float, steps: int) -> None:
    trunk = planned(100, decay_ratio=decay_ratio)
    rate, branch_step = trunk.learning_rate, trunk.branch_step(steps)
    # The checkpoint holds the rate of the next step, set when the last one ended.
    assert [rate.factor(step, steps) for step in range(branch_step + 1)] == [
        rate.factor(step, 100) for step in range(branch_step + 1)
    ]
    assert rate.factor(branch_step + 1, steps) < 1


def test_branch_steps_of_the_usual_decay() -> None:
    assert [planned(6000).branch_step(steps) for steps in (750, 1500, 3000)] == [675, 1350, 2700]
    assert planned(6000, {"recovery_step": 600}).branch_step(750) == 675
    assert planned(6000, {"step_ratio": 0.0}).branch_step(750) == 675


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (planned(6000, {"step_ratio": 0.1}), "share of its length .* give a recovery_step"),
        (planned(6000, {"recovery_step": 676}), "decay at step 675, before its recovery begins at step 676"),
        (planned(6000, warmup_steps=750), "no decay to branch off for"),
        (planned(6000, decay_ratio=0.0), "no decay to branch off for"),
        (planned(6000, decay_ratio=1.0, warmup_steps=0), "decay at step 0, before it trains"),
        (PlannedRun({}, 6000, 1), "not a WarmupStableDecay"),
        (plan_of(config(callbacks=[NGRAM_TARGETS])), "NgramTargets does at a step"),
    ],
)
def test_runs_that_no_shorter_one_branches_off(plan: PlannedRun, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.branch_step(750)


def test_a_learning_rate_of_another_class_is_not_known() -> None:
    values = config()
    values["model"]["learning_rate_schedule"] = {"class_path": "my.Cosine", "init_args": {}}
    assert plan_of(values).learning_rate is None


@pytest.mark.parametrize("interval", [6000, 500, 1.0, 0.25, None, "00:01:00:00"])
def test_runs_that_end_with_a_validation(interval: object) -> None:
    require_final_validation({"a": plan_of(config(val_check_interval=interval))})


@pytest.mark.parametrize(("interval", "last", "instead"), [(375 * 2, 11250, 600), (0.3, 10260, 2850)])
def test_runs_that_would_be_judged_by_another_step(interval: object, last: int, instead: int) -> None:
    plan = plan_of(config(max_steps=5700, val_check_interval=interval))
    message = f"^arm 'b' has 11400 batches .* last after {last}: .* for example {instead}$"
    with pytest.raises(UserError, match=message):
        require_final_validation({"a": plan_of(config()), "b": plan})
    require_final_validation({"b": plan_of(config(max_steps=5700, val_check_interval=instead))})


@pytest.mark.parametrize("limit", [0, 0.0])
def test_a_run_without_validation_is_refused(limit: float) -> None:
    with pytest.raises(UserError, match="limit_val_batches is 0, and runs are compared by their validation loss"):
        plan_of(config(limit_val_batches=limit))
    assert plan_of(config(limit_val_batches=1))


@pytest.mark.parametrize(
    ("accelerator", "devices", "expected"),
    [
        ("cpu", 1, (1, False)),
        ("cpu", "auto", (1, False)),
        ("gpu", 8, (8, True)),
        ("gpu", "4", (4, True)),
        ("cuda", [0, 2], (2, True)),
        ("gpu", "1,3,", (2, True)),
        ("gpu", -1, (3, True)),
        ("auto", "auto", (3, True)),
        ("auto", 2, (2, True)),
    ],
)
def test_devices(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, devices: object, expected: tuple[int, bool]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    plan = plan_of(config(accelerator=accelerator, devices=devices))
    assert (plan.devices, plan.on_gpu) == expected
