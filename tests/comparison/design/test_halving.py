import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Run, run_folder
from tst_lightning.comparison.design.halving import Halving, dropped_arms, halving_problems, number_going_on, rank

LENGTHS = (100, 200, 400)
METHODS = ("m1", "m2", "m3", "m4")


def make_arms(methods=METHODS, lengths=LENGTHS, variants=("",), trunks: bool = False) -> dict[str, Arm]:
    """A baseline and methods at every length; and for m1 a baseline that reads as much data, twice the steps."""
    arms = []
    for variant in variants:
        prefix = f"{variant}-" if variant else ""
        for steps in lengths:
            base = f"{prefix}base-{steps}"
            trunk = f"{prefix}base-{lengths[-1]}" if trunks and steps != lengths[-1] else None
            arms.append(Arm(base, "base", Overlay(), variant=variant, steps=steps, trunk=trunk))
            arms.append(Arm(f"{prefix}same-{steps}", "same", Overlay(), variant=variant, steps=2 * steps))
            for method in methods:
                references = (base, f"{prefix}same-{steps}") if method == "m1" else (base,)
                name = f"{prefix}{method}-{steps}"
                arms.append(Arm(name, method, Overlay(), variant=variant, steps=steps, references=references))
    return {arm.name: arm for arm in arms}


def make_runs(folder: Path, arms: dict[str, Arm], seeds=(1, 2)) -> list[Run]:
    return [Run(arm, seed, run_folder(folder, arm, seed), (), {}) for seed in seeds for arm in arms]


def finish(folder: Path, arm: str, *losses: float | None) -> None:
    for seed, loss in enumerate(losses, start=1):
        run = run_folder(folder, arm, seed)
        run.mkdir(parents=True, exist_ok=True)
        (run / "progress.json").write_text(json.dumps({"step": 1, "val_loss": loss}))
        (run / "finished.json").write_text("{}")


def is_finished(run: Run) -> bool:
    return (run.folder / "finished.json").exists()


def test_ranked_by_the_mean_with_failed_and_diverged_last() -> None:
    losses = {
        "b": [2.0, 2.2],
        "failed": [1.0, None],
        "a": [2.4, 1.7],
        "both": [None, math.nan],
        "diverged": [math.nan, 1.0],
        "infinite": [math.inf, 9.0],
        "c": [2.2, 2.0],
        "nothing": [],
    }
    ranked = rank(losses)
    assert list(ranked) == ["a", "b", "c", "nothing", "failed", "diverged", "infinite", "both"]
    assert ranked["a"] == pytest.approx(2.05)
    assert ranked["b"] == ranked["c"] == pytest.approx(2.1)
    assert {ranked[name] for name in ("nothing", "failed", "diverged", "infinite", "both")} == {math.inf}


@pytest.mark.parametrize(
    ("keep", "number", "stay"), [(0.5, 4, 2), (0.5, 5, 3), (0.5, 1, 1), (0.3, 10, 3), (0.07, 100, 7), (1 / 3, 6, 2)]
)
def test_share_is_rounded_up(keep: float, number: int, stay: int) -> None:
    assert number_going_on(keep, number) == stay


def test_rounds(tmp_path: Path) -> None:
    arms = make_arms()
    runs = make_runs(tmp_path, arms)
    halving = Halving(tmp_path, arms, "base", 0.5)
    assert [name for name in arms if halving.may_run(name)] == [
        *("base-100", "same-100", "m1-100", "m2-100", "m3-100", "m4-100", "base-200", "base-400")
    ]
    assert halving.may_run("m1-200") is None
    assert halving.may_run("same-200") is None
    assert halving.decide(runs, is_finished) == []
    for method, losses in {"m1": (2.1, 2.3), "m2": (2.0, 2.1), "m3": (2.0, math.nan)}.items():
        finish(tmp_path, f"{method}-100", *losses)
    assert halving.decide(runs, is_finished) == []  # m4 is not there yet
    finish(tmp_path, "m4-100", 1.9)
    failed = run_folder(tmp_path, "m4-100", 2)
    (said,) = halving.decide(runs, lambda run: is_finished(run) or run.folder == failed)
    assert said == "after 100 steps m2, m1 go on, dropped: m3, m4"
    assert halving.decide(runs, is_finished) == []
    assert [halving.may_run(f"{name}-200") for name in ("base", "same", *METHODS)] == [
        *(True, True, True, True, False, False)
    ]
    assert [halving.may_run(f"m{number}-400") for number in (1, 2, 3, 4)] == [None, None, False, False]
    finish(tmp_path, "m1-200", 1.5, 1.5)
    finish(tmp_path, "m2-200", 1.4, 1.5)
    assert halving.decide(runs, is_finished) == ["after 200 steps m2 go on, dropped: m1"]
    again = Halving(tmp_path, arms, "base", 0.5)
    for one in (halving, again):
        assert one.may_run("m2-400") is True
        assert one.may_run("m1-400") is one.may_run("same-400") is False
    after = "not run: dropped by successive halving after"
    assert dropped_arms(tmp_path) == {
        **dict.fromkeys(["m3-200", "m3-400", "m4-200", "m4-400"], f"{after} 100 steps"),
        "m1-400": f"{after} 200 steps",
        "same-400": "not run: all that is compared with it was dropped by successive halving after 200 steps",
    }
    (first, second) = json.loads((tmp_path / "halving.json").read_text())["decisions"]
    assert first["losses"] == {"m2": pytest.approx(2.05), "m1": pytest.approx(2.2), "m3": None, "m4": None}
    assert (second["steps"], second["goes_on"], second["dropped"]) == (200, ["m2"], ["m1"])


def test_a_restart_decides_the_same_even_if_losses_have_changed(tmp_path: Path) -> None:
    arms = make_arms(lengths=(100, 200))
    for place, method in enumerate(METHODS):
        finish(tmp_path, f"{method}-100", 2.0 + place, 2.0 + place)
    Halving(tmp_path, arms, "base", 0.5).decide(make_runs(tmp_path, arms), is_finished)
    finish(tmp_path, "m4-100", 0.5, 0.5)
    again = Halving(tmp_path, arms, "base", 0.5)
    assert again.decide(make_runs(tmp_path, arms), is_finished) == []
    assert again.may_run("m1-200") is True
    assert again.may_run("m4-200") is False
    # A part of the arms is still decided; another share or a method more is a new contest.
    part = {name: arm for name, arm in arms.items() if arm.method in ("base", "same", "m1", "m3")}
    assert Halving(tmp_path, part, "base", 0.5).may_run("m3-200") is False
    assert Halving(tmp_path, arms, "base", 0.25).may_run("m4-200") is None
    more = make_arms((*METHODS, "m5"), lengths=(100, 200))
    assert Halving(tmp_path, more, "base", 0.5).may_run("m4-200") is None


def test_a_part_of_the_lengths_keeps_the_other_decisions(tmp_path: Path) -> None:
    arms = make_arms()
    for length in LENGTHS:
        for place, method in enumerate(METHODS):
            finish(tmp_path, f"{method}-{length}", 2.0 + place, 2.0 + place)
    runs = make_runs(tmp_path, arms)
    Halving(tmp_path, arms, "base", 0.9).decide(runs, is_finished)
    longer = {name: arm for name, arm in arms.items() if not name.endswith("-100")}
    Halving(tmp_path, longer, "base", 0.5).decide(runs, is_finished)
    decisions = json.loads((tmp_path / "halving.json").read_text())["decisions"]
    assert [(one["steps"], one["keep"], len(one["goes_on"])) for one in decisions] == [(100, 0.9, 4), (200, 0.5, 2)]


def test_variants_are_ranked_apart(tmp_path: Path) -> None:
    arms = make_arms(("m1", "m2"), (100, 200), ("bytes", "bpe"))
    for variant, losses in {"bytes": (1.0, 2.0), "bpe": (4.0, 3.0)}.items():
        finish(tmp_path, f"{variant}-m1-100", losses[0], losses[0])
        finish(tmp_path, f"{variant}-m2-100", losses[1], losses[1])
    halving = Halving(tmp_path, arms, "base", 0.5)
    said = halving.decide(make_runs(tmp_path, arms), is_finished)
    assert said == [
        "bytes: after 100 steps m1 go on, dropped: m2",
        "bpe: after 100 steps m2 go on, dropped: m1",
    ]
    assert [halving.may_run(f"{name}-200") for name in ("bytes-m1", "bytes-m2", "bpe-m1", "bpe-m2")] == [
        *(True, False, False, True)
    ]


def test_what_is_expected_counts_rounds_to_come(tmp_path: Path) -> None:
    arms = make_arms()
    expected = Halving(tmp_path, arms, "base", 0.5).expected()
    by_length = {
        steps: sorted(name for name in expected if name.endswith(f"-{steps}") and name[0] == "m") for steps in LENGTHS
    }
    assert [len(by_length[steps]) for steps in LENGTHS] == [4, 2, 1]
    assert {f"base-{steps}" for steps in LENGTHS} <= expected


def test_a_trunk_is_wanted_as_early_as_its_branches(tmp_path: Path) -> None:
    halving = Halving(tmp_path, make_arms(trunks=True), "base", 0.5)
    assert [halving.stage(f"base-{steps}") for steps in LENGTHS] == [100, 200, 100]
    assert [halving.stage(f"same-{steps}") for steps in LENGTHS] == [100, 200, 400]
    assert [halving.stage(f"m2-{steps}") for steps in LENGTHS] == list(LENGTHS)


def test_what_does_not_go_together() -> None:
    assert halving_problems(make_arms(trunks=True), 0.5) == []
    assert "halving is 1.0: give the share" in halving_problems(make_arms(), 1.0)[0]
    assert "two or more `lengths`" in halving_problems(make_arms(lengths=(100,)), 0.5)[0]
    branching = make_arms()
    branching["m2-100"] = Arm(
        "m2-100", "m2", Overlay(), steps=100, references=("base-100",), trunk="m2-400", branch_step=90
    )
    (problem,) = halving_problems(branching, 0.5)
    assert problem.startswith("halving with branches of m2: ")
    assert "leave it out of `branch`" in problem


def test_no_halving_drops_nothing(tmp_path: Path) -> None:
    assert dropped_arms(tmp_path) == {}


def test_arms_with_steps_of_their_own_are_ranked_at_their_length(tmp_path: Path) -> None:
    """m2 and m3 cost less and have more steps, and each is ranked with m1 and m4 of the same length."""
    arms = make_arms(lengths=(100, 200))
    for name, arm in arms.items():
        length = int(name.rpartition("-")[2])
        arms[name] = replace(arm, length=length, steps=length * {"m2": 2, "m3": 3}.get(arm.method, 1))
    assert halving_problems(arms, 0.5) == []
    runs, halving = make_runs(tmp_path, arms), Halving(tmp_path, arms, "base", 0.5)
    assert [halving.stage(f"m2-{length}") for length in (100, 200)] == [100, 200]
    assert halving.may_run("m3-100") is True
    assert halving.may_run("m3-200") is None
    for place, method in enumerate(METHODS):
        finish(tmp_path, f"{method}-100", 2.0 + place, 2.0 + place)
    assert halving.decide(runs, is_finished) == ["after 100 steps m1, m2 go on, dropped: m3, m4"]
    assert [halving.may_run(f"{method}-200") for method in METHODS] == [True, True, False, False]
