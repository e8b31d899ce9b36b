"""Which runs of two results folders are compared, and which are the same or cannot be."""

import json

import pytest
from two_reports import BASE, against, config_text, other_rate, shifted, welch_by_hand, write_report_json

from tst_lightning.comparison.against.report import write_against
from tst_lightning.comparison.against.sentences import cautions, effect_sentence, labels, loss_sentence, verdict
from tst_lightning.comparison.analysis.settings import differing_settings, settings


def test_runs_equal_in_all_but_their_folder_are_one_run_done_twice(tmp_path) -> None:
    watching = {"": {"callbacks": ({"class_path": "callbacks.BranchPoints", "init_args": {"steps": [3]}},)}}
    from_trunk = [{"tst": {"ckpt_path": f"results/{name}/runs/trunk/step=3.ckpt"}} for name in ("here", "there")]
    theirs = {"baseline": {**BASE, 2: BASE[2] + 3e-4}, "tst": shifted(0.03)}
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": shifted(0.03)}, config=from_trunk[0])
    there = write_report_json(tmp_path / "there", theirs, config=watching | from_trunk[1])
    found = against(here, there)
    assert found.arms[0].repeats == pytest.approx({1: 0.0, 2: -3e-4, 3: 0.0})
    assert found.arms[1].repeats == {1: 0.0, 2: 0.0, 3: 0.0}
    assert [arm.difference for arm in found.arms] == [None, None]
    assert (found.effects[0].outcome, found.effects[0].difference) == ("same runs", None)
    assert "6 runs that both have, equal in all settings, came to losses at most 3.0e-04 nats apart." in verdict(found)
    assert "no replication, all pairs in here and there are the same runs" in effect_sentence(
        found.effects[0], labels(found)
    )


def test_tests_leave_repeats_out(tmp_path) -> None:
    ours = {"baseline": {1: 1.5, 2: 1.52, 3: 1.49, 4: 1.51}, "tst": {1: 1.4, 2: 1.41, 3: 1.4, 4: 1.41}}
    theirs = {"baseline": {3: 1.49, 4: 1.51, 5: 1.53, 6: 1.55}, "tst": {3: 1.4, 4: 1.41, 5: 1.45, 6: 1.42}}
    here, there = (write_report_json(tmp_path / name, arms) for name, arms in {"here": ours, "there": theirs}.items())
    found = against(here, there)
    assert found.arms[0].repeats == {3: 0.0, 4: 0.0}
    test = found.arms[0].difference
    assert (test.mean, test.low, test.high, test.p_value) == pytest.approx(welch_by_hand([1.5, 1.52], [1.53, 1.55]))
    effect = found.effects[0]
    assert (effect.outcome, effect.repeated) == ("replicates", (3, 4))
    expected = welch_by_hand([-0.1, -0.11], [-0.08, -0.13])
    assert (effect.difference.mean, effect.difference.low) == pytest.approx(expected[:2])
    notes = ["The same runs in both folders, which tests between them leave out: baseline seeds 3, 4; tst seeds 3, 4."]
    assert cautions(found, labels(found)) == notes


def test_only_what_is_comparable_is_compared(tmp_path) -> None:
    arms = {"baseline": BASE, "tst": shifted(0.03), "wide": shifted(0.05)}
    here = write_report_json(tmp_path / "here", arms)
    wide = {"wide": {"hidden_size": 128}}
    there = write_report_json(tmp_path / "there", arms | {"more": BASE}, 2, config=other_rate() | wide)
    found = against(here, there)
    reason = "model.config.init_args.hidden_size: 64 against 128"
    assert [arm.not_compared for arm in found.arms] == ["", "", reason]
    assert found.arms[2].difference is None
    assert {effect.arm: (effect.outcome, effect.difference is None) for effect in found.effects} == {
        "tst": ("replicates", False), "wide": ("not compared", True),
    }  # fmt: skip
    notes = " ".join(cautions(found, labels(found)))
    assert f"wide ({reason})" in notes
    assert "Only in there, and left out: more." in notes
    assert reason in effect_sentence(found.effects[1], labels(found))
    assert found.arms[0].settings == ("model.optimizer.init_args.lr: 0.01 against 0.02",)


def test_one_seed_missing_seeds_and_diverged_runs(tmp_path) -> None:
    ours = {"baseline": {1: 1.5, 2: 1.52}, "tst": {1: 1.4}, "wild": {1: None, 2: 1.6}, "lost": {1: None}}
    theirs = {"baseline": {1: 1.51, 2: 1.5, 3: 1.52}, "tst": {1: 1.41, 2: None, 3: 1.43}, "wild": BASE, "lost": BASE}
    here = write_report_json(tmp_path / "here", ours, seeds=[1, 2])
    there = write_report_json(tmp_path / "there", theirs, 2, seeds=[1, 2, 3], config=other_rate())
    found = against(here, there)
    names = labels(found)
    arms = {arm.name: arm for arm in found.arms}
    assert arms["wild"].here.diverged == (1,)
    assert arms["wild"].loss_here.mean == 1.6
    assert arms["tst"].there.losses == {1: 1.41, 3: 1.43}
    assert (arms["tst"].difference.mean, arms["tst"].difference.p_value) == (pytest.approx(-0.02), None)
    assert "one run in a folder allows no test" in loss_sentence(arms["tst"], names)
    assert "no finished run in here has a finite loss" in loss_sentence(arms["lost"], names)
    assert [effect.outcome for effect in found.effects] == ["no statement", "no statement", "not compared"]
    notes = " ".join(cautions(found, names))
    assert "Runs in here that have diverged and are in no mean: wild seed 1, lost seed 1." in notes
    assert "Runs in here that are not finished and are in no mean: tst seed 2, lost seed 2." in notes
    assert "Runs in there that have diverged and are in no mean: tst seed 2." in notes
    write_against(here, there)
    assert json.loads((here / "against-there.json").read_text())["arms"]["tst"]["difference"]["p_value"] is None


def test_an_arm_is_known_by_method_variant_and_length_too(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": shifted(0.03)})
    arms = {"baseline-100": BASE, "tst-100": shifted(0.02), "baseline-900": BASE, "bytes-tst-100": BASE}
    methods = {"baseline-100": ("baseline", "", 100), "tst-100": ("tst", "", 100)}
    methods |= {"baseline-900": ("baseline", "", 900), "bytes-tst-100": ("tst", "bytes", 100)}
    there = write_report_json(tmp_path / "there", arms, 2, methods=methods, config=other_rate())
    found = against(here, there)
    assert [(arm.name, arm.there.name) for arm in found.arms] == [("baseline", "baseline-100"), ("tst", "tst-100")]
    assert found.only_there == ("baseline-900", "bytes-tst-100")
    assert [effect.outcome for effect in found.effects] == ["replicates"]
    assert "tst (tst-100 in there)" in " ".join(cautions(found, labels(found)))


def test_an_arm_that_could_be_either_of_two_is_left_out(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": BASE})
    methods = {"tst-a": ("tst", "", 100), "tst-b": ("tst", "", 100)}
    arms = {"baseline": BASE, "tst-a": BASE, "tst-b": BASE}
    found = against(here, write_report_json(tmp_path / "there", arms, 2, methods=methods, config=other_rate()))
    assert (found.only_here, found.only_there) == (("tst",), ("tst-a", "tst-b"))
    assert "no pair of arms in common" in verdict(found)


def test_settings_ignore_where_a_run_lies_and_name_what_differs() -> None:
    step_checkpoint = {"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 5}}
    tst = {"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4}}
    one = settings(config_text("out/a/runs/x", 1, callbacks=(step_checkpoint, tst), ckpt_path="out/a/t.ckpt"), "out/a")
    two = settings(config_text("b/runs/x/", 1, callbacks=(tst,), ckpt_path="b/t.ckpt"), "b/")
    assert one == two
    assert one["ckpt_path"] == "OUTPUT_DIR/t.ckpt"
    tst["init_args"]["bag_size"] = 8
    three = settings(config_text("c/x", 7, callbacks=(tst,), max_steps=200, ckpt_path="elsewhere/t.ckpt"), "c")
    assert differing_settings(one, three) == [
        "ckpt_path: OUTPUT_DIR/t.ckpt against elsewhere/t.ckpt",
        "trainer.callbacks.SuperpositionCallback.bag_size: 4 against 8",
        "trainer.max_steps: 100 against 200",
    ]
    assert settings("seed_everything: [1", "a") == settings("", "a") == {}
