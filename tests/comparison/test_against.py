"""Two results folders beside each other, from reports with numbers that each test chooses."""

import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
import yaml
from scipy import stats

from tst_lightning.comparison.against.compare import Against, compare_folders
from tst_lightning.comparison.against.report import write_against
from tst_lightning.comparison.against.reported import read_reported
from tst_lightning.comparison.against.sentences import cautions, effect_sentence, labels, loss_sentence, verdict
from tst_lightning.comparison.against.welch import welch_difference
from tst_lightning.comparison.analysis.settings import differing_settings, settings
from tst_lightning.comparison.command import report
from tst_lightning.errors import UserError

REAL_REPORT = Path(__file__).parents[2] / "results" / "books_cpu" / "report.json"


def config_text(folder: str, seed: int, learning_rate: float = 0.01, hidden_size: int = 64, data_dir: str = "data/a",
                callbacks: tuple = (), max_steps: int = 100, ckpt_path: str | None = None) -> str:  # fmt: skip
    return yaml.safe_dump({
        "seed_everything": seed,
        "trainer": {
            "default_root_dir": folder, "precision": "bf16-mixed", "max_steps": max_steps,
            "logger": {"class_path": "Logger", "init_args": {"save_dir": folder}}, "callbacks": list(callbacks),
        },
        "model": {
            "config": {"class_path": "Llama", "init_args": {"hidden_size": hidden_size}}, "init_seed": seed,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": learning_rate}},
        },
        "data": {"data_dir": data_dir, "sequence_length": 8, "validation_windows": 4, "seed": seed},
        "ckpt_path": ckpt_path,
    })  # fmt: skip


def evaluation(**options) -> dict:
    return {"class_path": "callbacks.DownstreamEvaluation", "init_args": {"tasks": ["piqa"]} | options}


def write_report_json(
    folder: Path, arms: dict[str, dict[int, float | None]], version: int = 1, seeds=None, config=None, seconds=100.0,
    accuracy=None, items=400, cpu="Some CPU", methods=None,
) -> Path:  # fmt: skip
    """``report.json`` with these final losses by arm and seed; None for a run that has diverged.

    Args:
        config: Arm -> options of ``config_text``; under ``""`` those of all arms.
        accuracy: Arm -> seed -> accuracy on piqa.
        methods: Arm -> (method, variant, steps), version 2 only.
    """
    folder.mkdir(parents=True)
    config, baseline = config or {}, next(iter(arms))
    values = {"format_version": version, "created": "2026-01-01T00:00:00+00:00", "arms": {}, "runs": [], "pairs": []}
    values["experiment"] = {"output_dir": f"results/{folder.name}", "baseline": baseline, "seeds": seeds or []}
    for arm, losses in arms.items():
        by_seed = (accuracy or {}).get(arm, {})
        scores = [{"task": "piqa", "metric": "acc", "by_seed": by_seed, "items": items, "in_group": False,
                   "higher_is_better": True}] if by_seed else []  # fmt: skip
        costs = {"flops": 1e12, "data_tokens": 4e6, "positions": 1e6, "train_seconds": seconds,
                 "positions_per_second": 1e6 / seconds, "wall_seconds": None}  # fmt: skip
        values["arms"][arm] = {"arm": arm, "final_by_seed": losses, "costs": costs, "scores": scores}
        if version == 2:
            finite = {seed: loss for seed, loss in losses.items() if loss is not None}
            method, variant, steps = (methods or {}).get(arm, (arm, "", None))
            values["arms"][arm] |= {"final_by_seed": finite, "method": method, "variant": variant, "steps": steps,
                                    "diverged": [seed for seed in losses if seed not in finite]}  # fmt: skip
            if arm != baseline:
                values["pairs"].append({"arm": arm, "reference": baseline, "not_compared": ""})
        for seed in seeds or losses:
            run_dir = f"results/{folder.name}/runs/{arm}/seed_{seed}"
            text = config_text(run_dir, seed, **{**config.get("", {}), **config.get(arm, {})})
            origin = {"commit": {"hash": "a" * 40, "dirty": False}, "versions": {"torch": "2.15.0"}, "threads": 1,
                      "machine": {"cpu": cpu, "cpus": 2, "gpus": []}}  # fmt: skip
            status = "finished" if seed in losses else "missing"
            values["runs"].append({"arm": arm, "seed": seed, "status": status, "config": text, "finished": origin,
                                   "progress": {"max_steps": 100}})  # fmt: skip
    (folder / "report.json").write_text(json.dumps(values))
    return folder


def other_rate(**more) -> dict:
    """Runs of another folder that are not repeats."""
    return {"": {"learning_rate": 0.02} | more}


def against(here: Path, there: Path) -> Against:
    return compare_folders(read_reported(here), read_reported(there))


def welch_by_hand(one: list[float], other: list[float]) -> tuple[float, float, float, float]:
    """Difference, interval and p by the formulas of Welch and Satterthwaite."""
    shares = []
    for sample in (one, other):
        mean = sum(sample) / len(sample)
        shares.append(sum((value - mean) ** 2 for value in sample) / (len(sample) - 1) / len(sample))
    degrees = sum(shares) ** 2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, (one, other), strict=True)
    )
    difference, error = sum(one) / len(one) - sum(other) / len(other), math.sqrt(sum(shares))
    half = stats.t.ppf(0.975, degrees) * error
    return difference, difference - half, difference + half, 2 * stats.t.sf(abs(difference) / error, degrees)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (6, 2)])
def test_welch_is_the_textbook_formula(sizes: tuple[int, int]) -> None:
    rng = random.Random(sum(sizes))
    one, other = [rng.gauss(1.5, 0.01) for _ in range(sizes[0])], [rng.gauss(1.49, 0.04) for _ in range(sizes[1])]
    found = welch_difference(one, other)
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(welch_by_hand(one, other))
    assert found.n == sizes


def test_welch_without_spread_tells_nothing() -> None:
    assert welch_difference([], [1.0]) is None
    for one, other in (([1.0], [2.0, 2.1]), ([1.0, 1.0], [2.0, 2.0]), ([0.4 - 0.3, 0.3 - 0.2], [0.2, 0.2])):
        found = welch_difference(one, other)
        assert (found.low, found.high, found.p_value, found.is_shown) == (None, None, None, False)
        assert found.mean == pytest.approx(one[0] - sum(other) / 2)


BASE = {1: 1.50, 2: 1.52, 3: 1.49}
NOISE = {1: 0.001, 2: -0.002, 3: 0.0005}


def shifted(gain: float, noise: float = 1.0, base: dict[int, float] = BASE) -> dict[int, float]:
    return {seed: loss - gain + noise * NOISE[seed] for seed, loss in base.items()}


@pytest.mark.parametrize(
    ("gain_here", "noise_here", "gain_there", "noise_there", "outcome"),
    [
        (0.03, 1, 0.032, 1, "replicates"),
        (0.03, 1, -0.03, 1, "contradicts"),
        (0.03, 1, 0.03, 50, "here alone"),
        (0.03, 50, 0.03, 1, "there alone"),
        (0.0001, 1, 0.0, 1, "not shown"),
    ],
)
def test_whether_an_effect_replicates(tmp_path, gain_here, noise_here, gain_there, noise_there, outcome) -> None:
    ours, theirs = shifted(gain_here, noise_here), shifted(gain_there, noise_there)
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": ours})
    there = write_report_json(tmp_path / "there", {"baseline": BASE, "tst": theirs}, 2, config=other_rate())
    (effect,) = against(here, there).effects
    assert effect.outcome == outcome
    differences = [[arm[seed] - BASE[seed] for seed in BASE] for arm in (ours, theirs)]
    expected = welch_by_hand(*differences)
    found = effect.difference
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(expected)
    paired = stats.ttest_rel([ours[seed] for seed in BASE], [BASE[seed] for seed in BASE])
    assert effect.here.p_value == pytest.approx(paired.pvalue)


def test_losses_of_one_seed_in_two_folders_are_not_paired(tmp_path) -> None:
    """By pairs the difference would be shown beyond doubt; the runs are independent, and it is not."""
    theirs = {seed: loss + 0.01 + 0.1 * NOISE[seed] for seed, loss in BASE.items()}
    here = write_report_json(tmp_path / "here", {"baseline": BASE})
    there = write_report_json(tmp_path / "there", {"baseline": theirs}, config=other_rate())
    (arm,) = against(here, there).arms
    assert stats.ttest_rel(list(BASE.values()), list(theirs.values())).pvalue < 1e-3
    assert arm.difference.p_value == pytest.approx(welch_by_hand(list(BASE.values()), list(theirs.values()))[3])
    assert not arm.difference.is_shown
    assert "not shown to end at different losses" in loss_sentence(arm, ("here", "there"))


def test_p_values_are_corrected_for_the_number_of_arms(tmp_path) -> None:
    rng = random.Random(0)
    folders = []
    for place, name in enumerate(("here", "there")):
        arms = {arm: {seed: rng.gauss(1.5 + 0.03 * place, 0.02) for seed in range(4)} for arm in ("a", "b", "c")}
        folders.append(write_report_json(tmp_path / name, arms, config=other_rate() if place else None))
    found = against(*folders)
    for tests in ([arm.difference for arm in found.arms], [effect.difference for effect in found.effects],
                  [effect.here for effect in found.effects]):  # fmt: skip
        ascending = sorted(tests, key=lambda test: test.p_value)
        expected = 0.0
        for rank, test in enumerate(ascending):
            expected = max(expected, min(1.0, (len(tests) - rank) * test.p_value))
            assert test.p_holm == pytest.approx(expected)


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


def test_says_that_effects_on_the_same_baseline_runs_are_not_independent(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": shifted(0.03)})
    changed = {"tst": {"learning_rate": 0.02}}
    there = write_report_json(tmp_path / "there", {"baseline": BASE, "tst": shifted(0.02)}, config=changed)
    found = against(here, there)
    assert found.effects[0].outcome == "replicates"
    assert cautions(found, labels(found))[1].startswith(
        "Both folders hold tst against the same runs of baseline: whatever chance did to those is in both effects"
    )


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


def test_refuses_folders_with_nothing_to_compare(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": BASE})
    text = write_report_json(tmp_path / "text", {"baseline": BASE, "tst": BASE}, config={"": {"data_dir": "data/b"}})
    with pytest.raises(UserError, match=r"baseline, tst: data.data_dir: data/a against data/b"):
        against(here, text)
    with pytest.raises(UserError, match=r"no arm in common \(baseline, tst against other\)"):
        against(here, write_report_json(tmp_path / "names", {"other": BASE}))
    with pytest.raises(UserError, match="cannot be compared with itself"):
        write_against(here, tmp_path / "text" / ".." / "here")


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


def test_scores_are_compared_where_they_mean_the_same(tmp_path) -> None:
    ours = {"baseline": {1: 0.60, 2: 0.61, 3: 0.62}, "tst": {1: 0.7, 2: 0.71, 3: 0.7}}
    theirs = {"baseline": {1: 0.55, 2: 0.56, 3: 0.57}, "tst": {1: 0.7, 2: 0.71, 3: 0.73}}
    arms = {"baseline": BASE, "tst": BASE}

    def score_of(name: str, options: dict, items: int = 400):
        config = other_rate(callbacks=(evaluation(**options),))
        there = write_report_json(tmp_path / name, arms, accuracy=theirs, config=config, items=items)
        return against(here, there).arms[0].scores[0]

    here = write_report_json(
        tmp_path / "here", arms, accuracy=ours, config={"": {"callbacks": (evaluation(limit=None),)}}
    )
    same = score_of("same", {"limit": None, "tasks": ["piqa", "arc_easy"]})
    expected = welch_by_hand(list(ours["baseline"].values()), list(theirs["baseline"].values()))
    found = same.difference
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(expected)
    assert found.p_holm == pytest.approx(2 * expected[3])
    limited = score_of("limited", {"limit": 50})
    assert (limited.not_compared, limited.difference) == ("DownstreamEvaluation.limit: None against 50", None)
    assert score_of("fewer", {"limit": None}, items=50).not_compared == "items of piqa: 400 against 50"


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


def test_reports_that_cannot_be_read(tmp_path) -> None:
    good = write_report_json(tmp_path / "good", {"baseline": BASE})
    folder = tmp_path / "other"
    with pytest.raises(UserError, match="holds no comparison"):
        write_against(good, folder)
    folder.mkdir()
    (folder / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match=f"write it with `tst-lightning report {folder}` first"):
        write_against(good, folder)
    path = folder / "report.json"
    for content, problem in {
        '{"format_version": 2, "ar': "not readable as JSON",
        '{"format_version": 3}': "has format_version 3, this release reads 1 and 2",
        '{"arms": {}}': "has format_version None",
        '{"format_version": 2, "runs": []}': "is not a whole report of format 2",
    }.items():
        path.write_text(content)
        with pytest.raises(UserError, match=problem):
            write_against(good, folder)
    assert [found.name for found in good.iterdir()] == ["report.json"]


def test_what_is_written_and_shown(tmp_path, capsys) -> None:
    ours = {"baseline": BASE, "<b>tst</b>": shifted(0.03)}
    theirs = {"baseline": BASE, "<b>tst</b>": shifted(0.05)}
    accuracy = {"baseline": {1: 0.5, 2: 0.6}}
    here = write_report_json(tmp_path / "here", ours, cpu="Slow CPU", accuracy=accuracy)
    there = write_report_json(
        tmp_path / "there", theirs, 2, config=other_rate(), seconds=25.0, cpu="Fast CPU", accuracy=accuracy
    )
    before = [(folder / "report.json").read_bytes() for folder in (here, there)]
    report(str(here), against=str(there))
    shown = capsys.readouterr().out
    assert [(folder / "report.json").read_bytes() for folder in (here, there)] == before
    assert sorted(path.name for path in there.iterdir()) == ["report.json"]
    assert shown.startswith("<b>tst</b> against baseline: the effect replicates (-0.0302 in here, n = 3; -0.0502 in")
    assert str(here / "against-there.html") in shown

    page = (here / "against-there.html").read_text()
    assert "<b>tst</b>" not in page
    assert re.findall(r'src="(.{20})', page) == ["data:image/png;base6"] * 2
    assert "<script" not in page
    assert not re.findall(r'href="|https?://', page)
    text = (here / "against-there.md").read_text()
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (here / link).is_file()
    assert "here: Slow CPU, CPUs: 2, no GPU, CPU threads per run: 1." in text
    assert "there: Fast CPU" in text
    ratio = next(line for line in text.splitlines() if "| ratio |" in line)
    assert ratio.split(" | ")[2:] == ["1", "1", "1", "4", "0.25 |"]
    assert "model.optimizer.init\\_args.lr: 0.01 against 0.02 (all arms)" in text
    values = json.loads((here / "against-there.json").read_text())
    assert values["effects"][0]["outcome"] == "replicates"
    assert values["arms"]["baseline"]["there"]["losses"] == {str(seed): loss for seed, loss in BASE.items()}
    assert values["here"]["machines"] == ["Slow CPU, CPUs: 2, no GPU, CPU threads per run: 1"]


def test_folders_of_one_name_are_told_apart(tmp_path) -> None:
    folders = [write_report_json(tmp_path / place / "same", {"baseline": BASE}, config=config)
               for place, config in {"x": None, "y": other_rate()}.items()]  # fmt: skip
    assert labels(against(*folders)) == (str(folders[0]), str(folders[1]))


def test_a_copy_of_a_real_report_is_the_same_runs(tmp_path) -> None:
    """A committed report of format 1, whose runs are gone."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(REAL_REPORT, folder)
    shown = write_against(*folders)
    assert "no replication, all pairs in one and two are the same runs" in shown
    assert "4 runs that both have, equal in all settings, came to the same loss." in shown
    assert "\nsame runs " in shown
