from collections.abc import Mapping
from pathlib import Path

import pytest

from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.specification import Specification


def specification(arms: Mapping[str, ArmSpec] | None = None, **changes: object) -> Specification:
    options = {"baseline": "base", "lengths": (10, 20)}
    every = {"base": ArmSpec(), "tst{s}": ArmSpec(overrides={"s": "{s}"}, grid={"s": [4, 8]})} | dict(arms or {})
    return Specification(every, **options | changes)


def test_methods_stand_in_the_order_of_the_file() -> None:
    arms = {"same": ArmSpec(equal_data_with="tst8"), "long": ArmSpec(lengths=[20])}
    good = specification(arms, branch=("base", "tst*"), variants={"a": Overlay(), "b": Overlay()})
    assert not good.problems()
    assert list(good.methods()) == ["base", "tst4", "tst8", "same", "long"]


@pytest.mark.parametrize(
    ("arms", "changes", "problem"),
    [
        ({}, {"lengths": (10, 0)}, "lengths [10, 0]: give different numbers of optimizer steps, each at least 1"),
        ({}, {"lengths": (10, 10)}, "lengths [10, 10]: give different"),
        ({}, {"lengths": (), "branch": ("base",)}, "`branch` needs two or more `lengths`"),
        ({}, {"branch": ("base", "plt*")}, "branch: no arm is named like 'plt*': there are base, tst4, tst8"),
        ({"x": ArmSpec(lengths=[30, 10])}, {}, "arm 'x': lengths [30] are not among the experiment's: [10, 20]"),
        ({"x": ArmSpec(lengths=[30])}, {"lengths": ()}, "lengths [30] are not among the experiment's: it has none"),
        ({"x": ArmSpec(lengths=[])}, {}, "arm 'x': `lengths` is empty"),
        ({"base": ArmSpec(lengths=[10])}, {}, "arm 'tst4' is trained at lengths [20], the baseline 'base' is not"),
        ({"tst4": ArmSpec()}, {}, "2 arms are named 'tst4'"),
        ({"t{u}": ArmSpec()}, {}, "arm 't{u}': '{u}' has no values"),
        ({}, {"baseline": "bass"}, "baseline 'bass' is not an arm: name one of base, tst4, tst8"),
        ({"base": ArmSpec(equal_data_with="tst4")}, {}, "baseline 'base': equal_data_with is for a second baseline"),
        (
            {"x": ArmSpec(equal_data_with="tst")},
            {},
            "equal_data_with 'tst' is not an arm: name one of base, tst4, tst8",
        ),
        (
            {"x": ArmSpec(equal_flops_with="tst")},
            {},
            "equal_flops_with 'tst' is not an arm: name one of",
        ),
        ({"x": ArmSpec(compare_with=["tst"])}, {}, "compare_with 'tst' is not an arm: name one of"),
        ({"x": ArmSpec(compare_with=["base"])}, {}, "compare_with 'base' is the arm itself or the baseline"),
        ({"x": ArmSpec(equal_flops_with="x")}, {}, "'x' follow from another arm themselves"),
        ({"x": ArmSpec(equal_flops_with="base", equal_data_with="tst4")}, {}, "both set its steps"),
        (
            {"x": ArmSpec([], {"trainer.max_steps": 1}, equal_flops_with="base")},
            {},
            "arm 'x': 'trainer.max_steps' cannot be overridden beside equal_flops_with",
        ),
        ({"x": ArmSpec(equal_data_with="base")}, {}, "equal_data_with 'base' is a baseline itself"),
        ({"x": ArmSpec(equal_data_with="x")}, {}, "equal_data_with 'x' is a baseline itself"),
        ({"x": ArmSpec(equal_data_with="tst4", lengths=[10])}, {}, "arm 'x': equal_data_with sets its lengths"),
        ({}, {"base": Overlay(["no.yaml"])}, "base: there is no config file 'no.yaml'"),
        ({}, {"variants": {"a": Overlay(["no.yaml"])}}, "variant 'a': there is no config file 'no.yaml'"),
        ({"x{s}": ArmSpec(["n{s}.yaml"], grid={"s": [1]})}, {}, "arm 'x1': there is no config file 'n1.yaml'"),
        ({}, {"variants": {"a/b": Overlay()}}, "variant 'a/b' becomes part of a folder name"),
        ({"x": ArmSpec([], {"data.seed": 1})}, {}, "arm 'x': 'data.seed' cannot be overridden"),
        ({}, {"base": Overlay([], {"trainer.max_steps": 1})}, "base: 'trainer.max_steps' cannot be overridden where"),
        (
            {"x": ArmSpec([], {"trainer.max_steps": 1}, equal_data_with="tst4")},
            {"lengths": ()},
            "arm 'x': 'trainer.max_steps' cannot be overridden beside equal_data_with",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arms: dict, changes: dict, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    problems = specification(arms, **changes).problems()
    assert any(problem in found for found in problems), problems
    assert len(problems) <= 2  # nothing is taken for wrong that is not; a shorter baseline has two arms against it


def test_problems_of_all_kinds_come_together() -> None:
    bad = specification({"x{s}": ArmSpec(grid={"s": []}), "y{s}": ArmSpec()}, lengths=(0,), base=Overlay(["no.yaml"]))
    assert len(bad.problems()) == 4
