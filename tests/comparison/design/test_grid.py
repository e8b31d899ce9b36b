from pathlib import Path

import pytest
from jsonargparse import auto_cli

from tst_lightning.comparison.design.arms import ArmSpec
from tst_lightning.comparison.design.grid import grid_problems, methods


def test_an_arm_without_a_grid_is_taken_as_it_is() -> None:
    spec = ArmSpec(["a.yaml"], {"name": "{epoch}", "x": 1}, lengths=[5], equal_data_with="other")
    assert not grid_problems("arm", spec)
    (method,) = methods("arm", spec)
    assert (method.name, method.overlay.configs, method.overlay.overrides) == ("arm", spec.configs, spec.overrides)
    assert (method.factors, method.lengths, method.equal_data_with) == ({}, (5,), "other")


def test_values_keep_their_type_and_the_order_in_which_they_stand() -> None:
    spec = ArmSpec(
        ["{w}.yaml"],
        {
            "s": "{s}",
            "r": "{r}",
            "text": "s={s}, r={r}",
            "deep": [{"s": "{s}"}, 7],
            "literal": "{{s}} of {s}",
            "n": None,
        },
        grid={"s": [4, 8], "r": [0.3, 0.5], "w": ["uniform"]},
        equal_data_with="other_{s}",
    )
    assert not grid_problems("tst_s{s}_r{r}_{w}", spec)
    found = methods("tst_s{s}_r{r}_{w}", spec)
    assert [method.name for method in found] == [
        "tst_s4_r0.3_uniform", "tst_s4_r0.5_uniform", "tst_s8_r0.3_uniform", "tst_s8_r0.5_uniform"
    ]  # fmt: skip
    last = found[-1]
    assert last.factors == {"s": 8, "r": 0.5, "w": "uniform"}
    assert last.overlay.configs == ["uniform.yaml"]
    assert last.overlay.overrides == {
        "s": 8, "r": 0.5, "text": "s=8, r=0.5", "deep": [{"s": 8}, 7], "literal": "{s} of 8", "n": None
    }  # fmt: skip
    assert last.equal_data_with == "other_8"
    assert spec.overrides["s"] == "{s}"


def test_true_and_false_are_written_as_in_yaml() -> None:
    spec = ArmSpec(["{b}.yaml"], {"x": "{b}", "text": "b={b}"}, grid={"b": [True, False]})
    assert not grid_problems("tst_{b}", spec)
    found = methods("tst_{b}", spec)
    assert [method.name for method in found] == ["tst_true", "tst_false"]
    assert [method.overlay.overrides for method in found] == [
        {"x": True, "text": "b=true"}, {"x": False, "text": "b=false"}
    ]  # fmt: skip
    assert found[0].overlay.configs == ["true.yaml"]


def test_true_stays_true_from_the_file(tmp_path: Path) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text("arms: {'tst_{b}{n}{x}': {grid: {b: [true, false], n: [1, 0], x: [1.5, a]}}}")
    seen = []

    def take(arms: dict[str, ArmSpec]) -> None:
        seen.extend(arms.values())

    auto_cli(take, args=["--config", str(config)], as_positional=False)
    assert repr(seen[0].grid) == "{'b': [True, False], 'n': [1, 0], 'x': [1.5, 'a']}"


@pytest.mark.parametrize(
    ("name", "spec", "problem"),
    [
        ("tst_s{s}", ArmSpec(), "arm 'tst_s{s}': '{s}' has no values: list them under `grid`"),
        ("tst", ArmSpec(grid={"s": [1]}), "grid 's' is not in the arm's name"),
        ("tst{s}", ArmSpec(grid={"s": []}), "grid 's' is empty"),
        ("tst{s}", ArmSpec(grid={"s": [4, 4]}), "grid 's' has a value twice in [4, 4]"),
        ("tst{s}", ArmSpec(grid={"s": [1]}, overrides={"x": ["{t}"]}), "'{t}' in its overrides is not in its grid (s)"),
        ("tst{s}", ArmSpec(grid={"s": [1]}, configs=["{t}.yaml"]), "'{t}' in its configs is not in its grid"),
        ("tst{s}", ArmSpec(grid={"s": [1]}, equal_data_with="{t}"), "'{t}' in its equal_data_with is not in its grid"),
    ],
)
def test_grids_that_name_no_arms(name: str, spec: ArmSpec, problem: str) -> None:
    (found,) = grid_problems(name, spec)
    assert problem in found
