"""From specifications to arms; and that a run which branches off is the whole run, bit for bit."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tst_lightning.comparison.command import specified_experiment
from tst_lightning.comparison.design import planned
from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.expansion import expand
from tst_lightning.comparison.design.planned import PlannedRun, planned_run
from tst_lightning.comparison.design.specification import Specification
from tst_lightning.errors import UserError
from tst_lightning.learning_rate import WarmupStableDecay
from tst_lightning.stages import SuperpositionStages

TST = ArmSpec(overrides={"s": "{s}", "r": "{r}"}, grid={"s": [4, 8], "r": [0.5]})
ARMS = {"base": ArmSpec(), "tst_s{s}_r{r}": TST}


def plan(arguments: Sequence[str]) -> PlannedRun:
    """Understands a few made-up options of `fit`."""
    options = dict(argument.removeprefix("--").split("=") for argument in arguments)
    if "bad" in options:
        raise UserError("unknown key 'bad'")
    steps, ratio = int(options.get("trainer.max_steps", 1000)), float(options.get("r", 0))
    switch = {"recovery_step": int(options["switch"])} if "switch" in options else {"step_ratio": ratio}
    constant = "constant" if "constant" in options else "scaled"
    stages = SuperpositionStages(int(options["s"]), **switch, tokens_per_step=constant) if "s" in options else None
    rate = WarmupStableDecay(decay_ratio=float(options.get("decay", 0.1)))
    return PlannedRun(options, steps, int(options.get("rows", 1)), stages, None, rate)


def expanded(arms: dict[str, ArmSpec], **options: object) -> dict:
    specification = Specification(arms, "base", **options)
    assert not specification.problems()
    return expand(specification, plan)


def test_without_axes_an_arm_is_its_method() -> None:
    arms = expanded(ARMS, base=Overlay([], {"trainer.max_steps": 500}))
    assert list(arms) == ["base", "tst_s4_r0.5", "tst_s8_r0.5"]
    arm = arms["tst_s8_r0.5"]
    assert (arm.method, arm.variant, arm.steps, arm.factors) == ("tst_s8_r0.5", "", None, {"s": 8, "r": 0.5})
    assert (arm.overlay.overrides, arm.references) == ({"s": 8, "r": 0.5}, ("base",))
    assert arms["base"].references == ()


def test_comparisons_stay_within_a_variant_and_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abt":
        Path(f"{name}.yaml").touch()
    variants = {"bytes": Overlay(["a.yaml"], {"rows": 1}), "bpe": Overlay(["b.yaml"], {"rows": 2})}
    arms = expanded(
        {"base": ArmSpec(), "tst": ArmSpec(["t.yaml"], {"s": 4, "rows": 3}, lengths=[20])},
        variants=variants, lengths=(20, 10),
    )  # fmt: skip
    assert list(arms) == [
        "bytes-base-20", "bytes-tst-20", "bytes-base-10", "bpe-base-20", "bpe-tst-20", "bpe-base-10"
    ]  # fmt: skip
    assert {arm.name: arm.references for arm in arms.values() if arm.references} == {
        "bytes-tst-20": ("bytes-base-20",),
        "bpe-tst-20": ("bpe-base-20",),
    }
    arm = arms["bpe-tst-20"]
    assert arm.overlay.configs == ["b.yaml", "t.yaml"]
    assert list(arm.overlay.overrides.items()) == [("rows", 3), ("s", 4), ("trainer.max_steps", 20)]
    assert (arm.method, arm.variant, arm.steps) == ("tst", "bpe", 20)


def test_shorter_lengths_branch_off_the_longest_which_stands_before_them() -> None:
    arms = expanded(ARMS, lengths=(30, 10, 60), branch=("b*",))
    assert list(arms)[:4] == ["base-60", "base-30", "tst_s4_r0.5-30", "tst_s8_r0.5-30"]
    branches = {arm.name: (arm.trunk, arm.branch_step) for arm in arms.values() if arm.trunk}
    assert branches == {"base-30": ("base-60", 27), "base-10": ("base-60", 9)}
    assert (arms["base-60"].trunk, arms["base-60"].branch_step) == (None, None)


def test_a_method_branches_off_the_longest_of_its_own() -> None:
    arms = expanded(
        {"base": ArmSpec(), "tst": ArmSpec([], {"s": 4, "switch": 5}, lengths=[10, 30])},
        lengths=(10, 30, 60), branch=("tst",),
    )  # fmt: skip
    assert {arm.name: arm.trunk for arm in arms.values() if arm.trunk} == {"tst-10": "tst-30"}


def test_equal_data_is_a_second_baseline_as_long_as_the_data_want() -> None:
    same = {
        "more": ArmSpec(equal_data_with="tst_s4_r0.5"),
        "half": ArmSpec([], {"rows": 2}, equal_data_with="tst_s8_r0.5"),
    }
    arms = expanded(ARMS | same, lengths=(10, 30), branch=("more",))
    # N * (r*s + 1 - r): 2.5 times, and 4.5 times in steps of twice the positions.
    assert [name for name in arms if "more" in name or "half" in name] == ["more-75", "more-25", "half-22", "half-68"]
    assert arms["tst_s4_r0.5-30"].references == ("base-30", "more-75")
    assert arms["tst_s8_r0.5-10"].references == ("base-10", "half-22")
    assert arms["more-75"].references == arms["half-68"].references == ()
    assert (arms["more-25"].trunk, arms["more-25"].branch_step, arms["more-25"].steps) == ("more-75", 23, 25)
    assert arms["more-75"].overlay.overrides == {"trainer.max_steps": 75}


def test_equal_flops_take_more_steps_where_they_are_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a step of 8 rows in bags of 4 has 2, so half of 2 + 8 positions on average; a costlier model fewer."""
    monkeypatch.setattr(planned, "planned_flops_per_position", lambda config: int(config.get("flops", 10)))
    base = Overlay([], {"rows": 8})
    patches = {"s": 4, "r": 0.5, "constant": 1}
    arms = {
        "base": ArmSpec(),
        "patches": ArmSpec([], patches, equal_flops_with="base"),
        "costly": ArmSpec([], {"flops": 16}, equal_flops_with="base"),
    }
    at_lengths = expanded(arms, base=base, lengths=(500, 1000))
    assert {arm.steps for arm in at_lengths.values() if arm.method == "patches"} == {800, 1600}
    assert {arm.steps for arm in at_lengths.values() if arm.method == "costly"} == {312, 625}  # of 312.5
    assert at_lengths["patches-800"].references == ("base-500",)
    alone = expanded(arms, base=base)
    assert alone["patches"].overlay.overrides["trainer.max_steps"] == 1600


def test_two_lengths_of_equal_flops_are_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the cost: 50 steps for both 100 and 101, as 50.5 is rounded down."""
    monkeypatch.setattr(planned, "planned_flops_per_position", lambda config: int(config.get("flops", 10)))
    arms = {"base": ArmSpec(), "costly": ArmSpec([], {"flops": 20}, equal_flops_with="base")}
    message = r"'costly' has 50 steps at 2 lengths \(100, 101\): validate more often .*0\.25\), or drop a length"
    with pytest.raises(UserError, match=message):
        expanded(arms, lengths=(100, 101))
    assert [arm.length for arm in expanded(arms, lengths=(100, 200)).values()] == [100, 100, 200, 200]
    with pytest.raises(UserError) as caught:
        expanded(arms, lengths=(1, 2), base=Overlay([], {"bad": 1}))
    assert "2 lengths" not in str(caught.value)


def test_as_much_data_as_an_arm_with_steps_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the cost and bags of 4 in half of the steps: 500 steps, which read 1,250 tokens a position."""
    monkeypatch.setattr(planned, "planned_flops_per_position", lambda config: int(config.get("flops", 10)))
    arms = {
        "base": ArmSpec(),
        "tst": ArmSpec([], {"s": 4, "r": 0.5, "flops": 20}, equal_flops_with="base"),
        "same": ArmSpec(equal_data_with="tst"),
    }
    for options in ({"lengths": (1000,)}, {}):
        found = {arm.method: arm for arm in expanded(arms, **options).values()}
        steps = {name: arm.overlay.overrides.get("trainer.max_steps", 1000) for name, arm in found.items()}
        assert steps == {"base": 1000, "tst": 500, "same": 1250}
        assert {arm.length for arm in found.values()} == set(options.get("lengths", {None}))


def test_flops_of_a_curriculum_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "planned_flops_per_position", lambda config: 10)

    def plan_with_curriculum(arguments: Sequence[str]) -> PlannedRun:
        follows = "LengthCurriculum" if "--curriculum=1" in arguments else None
        return replace(plan(arguments), follows_length=follows)

    short = ArmSpec([], {"curriculum": 1})
    specification = Specification({"base": ArmSpec(), "short": short, "x": ArmSpec(equal_flops_with="short")}, "base")
    with pytest.raises(UserError, match="'x': what a step of LengthCurriculum costs depends on the lengths"):
        expand(specification, plan_with_curriculum)


def test_arms_are_compared_with_what_they_name() -> None:
    both = ArmSpec(TST.configs, TST.overrides, TST.grid, compare_with=["tst_s{s}_r{r}"])
    arms = expanded(ARMS | {"both_s{s}_r{r}": both}, lengths=(500, 1000))
    assert arms["both_s8_r0.5-500"].references == ("base-500", "tst_s8_r0.5-500")


def test_equal_data_without_lengths() -> None:
    arms = expanded(ARMS | {"more": ArmSpec(equal_data_with="tst_s4_r0.5")})
    assert arms["more"].overlay.overrides == {"trainer.max_steps": 2500}
    assert arms["more"].steps is None
    assert arms["tst_s4_r0.5"].references == ("base", "more")


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        (ARMS, {"branch": ("tst*",)}, "'tst_s4_r0.5' cannot branch: its switch is at a share of its length"),
        (ARMS, {"branch": ("*",), "base": Overlay([], {"decay": 0})}, "'base' cannot branch: with decay_ratio=0.0"),
        (ARMS | {"x": ArmSpec([], {"s": 4, "switch": 5}, equal_data_with="tst_s4_r0.5")}, {}, "superposition itself"),
        (ARMS, {"branch": ("base",), "base": Overlay([], {"bad": 1})}, "'base': unknown key 'bad'"),
        (ARMS, {"variants": {"a": Overlay(), "a-base": Overlay()}, "lengths": (10,)}, None),
        (
            {"base": ArmSpec(), "b-base": ArmSpec()},
            {"variants": {"a-b": Overlay(), "a": Overlay()}},
            "two arms would be named 'a-b-base-10'",
        ),
    ],
)
def test_arms_that_cannot_be(arms: dict, options: dict, message: str | None) -> None:
    if message is None:
        assert len(expanded(arms, **options)) == 6
        return
    with pytest.raises(UserError, match=re.escape(message)):
        expanded(arms, **{"lengths": (10, 30)} | options)


# With real `fit` commands ---------------------------------------------------------------------------------

MODEL = """
trainer:
  accelerator: cpu
  max_epochs: -1
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  logger: false
  check_val_every_n_epoch: null
  val_check_interval: 4
  callbacks: [{class_path: callbacks.StepCheckpoint, init_args: {every_n_steps: 5}}]
model:
  config:
    class_path: transformers.LlamaConfig
    init_args: {vocab_size: 257, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
                num_key_value_heads: 2, max_position_embeddings: 64, bos_token_id: null, eos_token_id: 256}
  learning_rate_schedule: {warmup_steps: 2, decay_ratio: 0.25}
data: {sequence_length: 16, batch_size: 4, num_workers: 0, validation_windows: 4}
"""


@pytest.mark.slow
def test_a_run_that_branches_off_is_the_whole_run_bit_for_bit(prepared_dir: Path, tmp_path: Path) -> None:
    import torch

    from tst_lightning.cli import main

    (tmp_path / "model.yaml").write_text(MODEL)
    callback = {"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4, "recovery_step": 6}}
    specification = Specification(
        {"base": ArmSpec(), "tst": ArmSpec([], {"trainer.callbacks+": callback})},
        "base",
        Overlay([str(tmp_path / "model.yaml")], {"data.data_dir": str(prepared_dir)}),
        lengths=(12, 20),
        branch=("*",),
    )
    branching = specified_experiment("e", str(tmp_path / "branching"), [3], specification, planned_run)
    whole = specified_experiment("e", str(tmp_path / "whole"), [3], replace(specification, branch=()), planned_run)
    assert {arm.branch_step for arm in branching.arms.values()} == {None, 9}
    for run in branching.runs() + [run for run in whole.runs() if run.arm.endswith("-12")]:
        assert main(run.arguments) == 0

    for arm in ("base-12", "tst-12"):
        branch, straight = (
            torch.load(experiment.output_dir / "runs" / arm / "seed_3" / "checkpoints" / "last.ckpt", weights_only=True)
            for experiment in (branching, whole)
        )
        assert branch["global_step"] == straight["global_step"] == 12
        assert branch["state_dict"].keys() == straight["state_dict"].keys()
        assert all(torch.equal(weight, straight["state_dict"][name]) for name, weight in branch["state_dict"].items())
        trunk = torch.load(branching.output_dir / "runs" / arm.replace("12", "20") / "seed_3/checkpoints/last.ckpt")
        assert not all(torch.equal(weight, trunk["state_dict"][name]) for name, weight in branch["state_dict"].items())
