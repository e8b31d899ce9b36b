"""The paper's runs, as our configs plan them, against its numbers typed by hand (its table of runs, its section 4)."""

import importlib
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tst_lightning.accounting import matrix_parameters
from tst_lightning.comparison.command import specified_experiment
from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.planned import planned_run
from tst_lightning.comparison.design.specification import Specification
from tst_lightning.learning_rate import WarmupStableDecay

ROOT = Path(__file__).parents[1]
M, B, T = 10**6, 10**9, 10**12

RUNS = {  # experiment, arm: steps, superposed steps, bag size, tokens in superposition, all tokens
    ("paper_270m_20k", "baseline"): (20_000, 0, 1, 0, 42 * B),
    ("paper_270m_20k", "tst_s6_r0.3"): (20_000, 6_000, 6, 75 * B, 105 * B),
    ("paper_270m_100k", "baseline"): (100_000, 0, 1, 0, 209 * B),
    ("paper_270m_100k", "tst_s6_r0.3"): (100_000, 30_000, 6, 377 * B, 524 * B),
    ("paper_600m_20k", "baseline"): (20_000, 0, 1, 0, 42 * B),
    ("paper_600m_20k", "tst_s6_r0.3"): (20_000, 6_000, 6, 75 * B, 105 * B),
    ("paper_3b", "baseline"): (20_000, 0, 1, 0, 42 * B),
    ("paper_3b", "baseline_36k"): (36_000, 0, 1, 0, 75 * B),
    ("paper_3b", "baseline_same_data"): (50_000, 0, 1, 0, 105 * B),
    ("paper_3b", "tst_s6_r0.3"): (20_000, 6_000, 6, 75 * B, 105 * B),
    ("paper_3b", "tst_s6_r0.3_reinitialized"): (20_000, 6_000, 6, 75 * B, 105 * B),
    ("paper_moe_10b_a1b", "baseline"): (125_000, 0, 1, 0, 1.05 * T),
    ("paper_moe_10b_a1b", "tst_s16"): (49_983, 12_483, 16, 1.68 * T, 2 * T),
}
RECIPES = {  # experiment: learning rate, positions of a step
    "paper_270m_20k": (2e-3, 2**21),
    "paper_270m_100k": (2e-3, 2**21),
    "paper_600m_20k": (1e-3, 2**21),
    "paper_3b": (2e-4, 2**21),
    "paper_moe_10b_a1b": (3e-4, 2**23),
}
OWN_GRIDS = {"paper_270m_20k": 136, "paper_270m_100k": 22, "paper_600m_20k": 217}
"""Arms, as their files' headers say."""


@cache
def experiment(name):
    values = yaml.safe_load((ROOT / f"configs/experiments/{name}.yaml").read_text())
    arms = {arm: ArmSpec(**options) for arm, options in values["arms"].items()}
    specification = Specification(arms, values["baseline"], Overlay(**values["base"]))
    return specified_experiment(name, values["output_dir"], values["seeds"], specification, planned_run)


@cache
def plan(name, arm):
    run = next(run for run in experiment(name).runs() if run.arm == arm)
    return planned_run(run.arguments[1:])


def devices(trainer):
    return trainer["devices"] * trainer["num_nodes"]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("name", "arm"), RUNS)
def test_steps_and_tokens_are_the_papers(name, arm):
    steps, superposed_steps, bag_size, superposed_tokens, tokens = RUNS[name, arm]
    planned = plan(name, arm)
    assert planned.max_steps == steps
    first = planned.schedule.stages[0]
    assert (first.superposed, first.bag_size) == (superposed_steps > 0, bag_size)
    assert planned.schedule.stages[-1].first_step == superposed_steps
    # The table rounds, and cuts 209.7 to 209.
    of_devices = devices(planned.config["trainer"])
    assert planned.data_tokens * of_devices == pytest.approx(tokens, rel=0.01)
    read = bag_size * superposed_steps * planned.positions_per_step * of_devices
    assert read == pytest.approx(superposed_tokens, rel=0.01)


@pytest.mark.parametrize(("name", "arm"), RUNS)
def test_the_recipe_is_the_papers(name, arm):
    rate, positions = RECIPES[name]
    planned = plan(name, arm)
    trainer, model = planned.config["trainer"], planned.config["model"]
    assert planned.positions_per_step * devices(trainer) == positions
    assert planned.learning_rate == WarmupStableDecay(warmup_steps=2000, decay_ratio=0.1)
    optimizer = model["optimizer"]["init_args"]
    assert (optimizer["lr"], tuple(optimizer["betas"]), optimizer["weight_decay"]) == (rate, (0.9, 0.95), 0.1)
    assert trainer["gradient_clip_val"] == 1.0
    assert trainer["strategy"]["init_args"]["data_parallel_size"] == devices(trainer)
    assert planned.max_steps * trainer["accumulate_grad_batches"] % trainer["val_check_interval"] == 0


def test_what_is_begun_anew_is_only_the_ablations():
    options = {
        arm: plan(name, arm).config["trainer"]["callbacks"][-1]["init_args"]
        for name, arm in RUNS
        if name == "paper_3b" and arm.startswith("tst")
    }
    assert {arm: (each["on_switch"], each["reinitialize"]) for arm, each in options.items()} == {
        "tst_s6_r0.3": ("carry", "none"),
        "tst_s6_r0.3_reinitialized": ("carry", "embedding_and_head"),
    }


def test_the_equal_data_baseline_is_one_of_the_arm_that_reads_so_much():
    pairs = experiment("paper_3b").pairs()
    assert ("tst_s6_r0.3", "baseline") in pairs
    assert ("tst_s6_r0.3", "baseline_same_data") in pairs


def model_of(name):
    described = plan(name, "baseline").config["model"]["config"]
    module, _, kind = described["class_path"].rpartition(".")
    options = dict(described["init_args"]) | dict(described.get("dict_kwargs") or {})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(getattr(importlib.import_module(module), kind)(**options))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("paper_270m_20k", 270 * M), ("paper_270m_100k", 270 * M), ("paper_600m_20k", 600 * M),
     ("paper_moe_10b_a1b", 10 * B)],
)  # fmt: skip
def test_models_have_the_size_of_their_names(name, parameters):
    model = model_of(name)
    assert model.num_parameters() == pytest.approx(parameters, rel=0.03)
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    assert model.config.vocab_size == 128_256


def test_3b_is_counted_with_one_of_its_embedding_matrices():
    """As SmolLM3 counts itself, which ties them; the paper unties them and keeps the name."""
    model = model_of("paper_3b")
    table = model.get_input_embeddings().weight
    assert table is not model.get_output_embeddings().weight
    assert model.num_parameters() - table.numel() == pytest.approx(3 * B, rel=0.03)
    assert model.num_parameters() == pytest.approx(3.34 * B, rel=0.003)


def test_of_the_mixture_of_experts_one_billion_are_active():
    """A position goes through 8 of 128 experts, and through everything else."""
    model = model_of("paper_moe_10b_a1b")
    experts = sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    active = model.num_parameters() - experts * 120 // 128
    assert active == pytest.approx(1 * B, rel=0.03)
    vectors = sum(weight.numel() for weight in model.parameters() if weight.ndim == 1)
    assert matrix_parameters(model) == active - vectors - model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(("name", "arms"), OWN_GRIDS.items())
def test_the_grids_have_as_many_arms_as_their_files_say(name, arms):
    assert len(experiment(name).arms) == arms
    assert f"{arms} runs" in (ROOT / f"configs/experiments/{name}.yaml").read_text().partition("\nname:")[0]


@pytest.mark.parametrize("name", RECIPES)
def test_the_prepared_text_is_enough(name):
    """For the arm that reads the most; a row of a bag of s has s * 2,049 tokens."""
    values = yaml.safe_load((ROOT / f"configs/experiments/{name}.yaml").read_text())
    prepared = {}
    for path in values["prepare"]:
        options = yaml.safe_load((ROOT / path).read_text())
        prepared[options["output_dir"]] = options["max_tokens"] * (1 - options["validation_fraction"])
    planned = plan(name, "baseline")
    shares = planned.config["data"]["data_dir"]
    shares = dict(shares) if not isinstance(shares, str) else {shares: 1.0}
    assert shares.keys() == prepared.keys()
    factors = [arm.factors for arm in experiment(name).arms.values() if arm.factors]
    per_position = max((each["s"] * each["r"] + 1 - each["r"] for each in factors), default=0)
    most = max(
        [per_position * planned.max_steps * planned.positions_per_step * devices(planned.config["trainer"])]
        + [
            plan(experiment_name, arm).data_tokens * devices(planned.config["trainer"])
            for experiment_name, arm in RUNS
            if experiment_name == name
        ]
    )
    assert all(most * share * 2049 / 2048 < prepared[folder] for folder, share in shares.items())
