import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import write_items

from tst_lightning.comparison.analysis.item_tests import item_test, mean_and_error
from tst_lightning.comparison.analysis.items import ItemLogs, read_items


def logs(folder: Path, tasks: dict, groups: dict | None = None) -> ItemLogs:
    return read_items(write_items(folder, tasks, groups))


def bootstrap_error(totals: np.ndarray, sizes: np.ndarray, draws: int = 4000) -> float:
    """Standard error of ``sum(totals) / sum(sizes)`` by drawing entries anew, one draw after the other."""
    generator = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        chosen = generator.integers(0, len(totals), len(totals))
        values.append(totals[chosen].sum() / sizes[chosen].sum())
    return float(np.std(values, ddof=1))


def test_metrics_of_items_are_read_whatever_they_are(tmp_path: Path) -> None:
    path = write_items(
        tmp_path,
        {
            "choice": {"acc": [1.0, 0.0, 1.0], "acc_norm": [True, False, False]},
            "word": {"perplexity": [-2.0, -4.0], "acc": ["1.0", "0.0"]},
            "pages": {"word_perplexity": [[-30.0, 10], [-10.0, 6]], "bits_per_byte": [(-30.0, 50), (-10.0, 30)]},
        },
    )  # fmt: skip
    tasks = read_items(path).tasks
    assert tasks["choice"]["acc"].mean == pytest.approx(2 / 3)
    assert tasks["choice"]["acc_norm"].mean == pytest.approx(1 / 3)
    assert tasks["word"]["acc"].mean == 0.5
    results = json.loads(path.read_text())["results"]
    assert math.exp(tasks["word"]["perplexity"].mean) == pytest.approx(results["word"]["perplexity,none"])
    assert math.exp(tasks["pages"]["word_perplexity"].mean) == pytest.approx(results["pages"]["word_perplexity,none"])
    assert tasks["pages"]["bits_per_byte"].mean == pytest.approx(40 / 80 / math.log(2))
    assert tasks["choice"]["acc"].keys.dtype == np.uint64
    assert (np.diff(tasks["choice"]["acc"].keys.astype(float)) > 0).all()


def test_logs_that_are_cut_off_junk_or_missing_give_what_is_there(tmp_path: Path) -> None:
    path = write_items(tmp_path, {"a": {"acc": [1.0, 0.0]}, "b": {"acc": [1.0, 1.0]}, "c": {"acc": [1.0]}})
    sample, junk, gone = (next(tmp_path.glob(f"samples_{task}_*")) for task in "abc")
    sample.write_bytes(sample.read_bytes()[:-20])
    junk.write_bytes(b"\x00\xff\xfe[1]\n[1, 2]\n{}\n\n" + bytes(range(256)))
    gone.unlink()
    found = read_items(path)
    assert list(found.tasks) == ["a"]
    assert len(found.tasks["a"]["acc"].keys) == 1
    assert read_items(tmp_path / "results_none.json").tasks == {}


def test_items_with_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    found = logs(tmp_path, {"a": {"acc": [1.0, "nan", None, [1.0], 0.0, "[invalid]"]}})
    assert len(found.tasks["a"]["acc"].keys) == 2


def test_filters_and_groups_within_groups(tmp_path: Path) -> None:
    path = write_items(
        tmp_path,
        {"x": {"acc": [1.0]}, "y": {"acc": [1.0]}, "z": {"acc": [0.0]}},
        {"inner": (["x", "y"], {"acc": 1.0}), "outer": (["inner", "z"], {"acc": 0.5}), "loop": (["loop"], {})},
    )
    sample = next(tmp_path.glob("samples_z_*"))
    sample.write_text(sample.read_text() + sample.read_text().replace('"filter": "none"', '"filter": "strict"'))
    found = read_items(path)
    assert found.groups == {"inner": ("x", "y"), "outer": ("x", "y", "z")}
    assert found.group_scores["outer", "acc"] == 0.5
    assert sorted(found.tasks["z"]) == ["acc", "acc (strict)"]


def test_one_seed_and_right_or_wrong_is_mcnemar(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    ours, theirs = generator.random(300) < 0.55, generator.random(300) < 0.45
    sides = [
        {7: logs(tmp_path / name, {"t": {"acc": values.astype(float).tolist()}})}
        for name, values in (("arm", ours), ("reference", theirs))
    ]
    found = item_test("t", "acc", *sides)
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    assert (found.gained, found.lost, found.items, found.test) == (gained, lost, 300, "McNemar exact")
    assert found.mean == pytest.approx((gained - lost) / 300)
    # Twice the smaller tail of a fair coin, summed by hand.
    tail = sum(math.comb(gained + lost, heads) for heads in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    same = item_test("t", "acc", sides[0], sides[0])
    assert (same.p_value, same.gained, same.lost, same.low, same.high) == (1.0, 0, 0, None, None)


def test_equal_differences_of_all_items_or_subtasks_are_no_test(tmp_path: Path) -> None:
    tasks = {"arm": [1.0, 1.0], "reference": [0.0, 1.0]}
    sides = [
        {1: logs(tmp_path / name, {leaf: {"acc": values} for leaf in "xy"}, {"group": (["x", "y"], {"acc": 0.5})})}
        for name, values in tasks.items()
    ]
    group = item_test("group", "acc", *sides)
    assert (group.mean, group.p_value, group.low, group.has_test) == (0.5, 1.0, None, False)
    assert group.test == "no test, the differences of all subtasks are equal"
    many = [
        {seed: logs(tmp_path / f"{value}", {"t": {"acc": [value] * 50}}) for seed in (1, 2)} for value in (1.0, 0.0)
    ]
    assert item_test("t", "acc", *many).p_value == 1.0
    # McNemar's test counts, and needs no spread.
    one = item_test("t", "acc", *({1: side[1]} for side in many))
    assert (one.p_value, one.low, one.has_test) == (pytest.approx(2 * 0.5**50), None, True)


def test_seeds_do_not_multiply_items(tmp_path: Path) -> None:
    """Three seeds that answer alike know no more of other questions than one does."""
    generator = np.random.default_rng(4)
    ours, theirs = ((generator.random(500) < share).astype(float).tolist() for share in (0.56, 0.5))
    arm, reference = logs(tmp_path / "a", {"t": {"acc": ours}}), logs(tmp_path / "r", {"t": {"acc": theirs}})
    one = item_test("t", "acc", {1: arm}, {1: reference})
    three = item_test("t", "acc", dict.fromkeys((1, 2, 3), arm), dict.fromkeys((1, 2, 3, 4), reference))
    assert (three.items, three.mean) == (500, pytest.approx(one.mean))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    assert three.test == "paired t over items, means over seeds"
    assert three.gained is None


def test_interval_over_items_is_that_of_the_bootstrap(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    hard = generator.normal(0, 1.5, 400)  # what an item has in common for all models
    answers = {
        side: {
            seed: (generator.random(400) < 1 / (1 + np.exp(hard - gain))).astype(float) for seed in (1, 2, 3)
        }
        for side, gain in (("arm", 0.4), ("reference", 0.0))
    }  # fmt: skip
    sides = [
        {seed: logs(tmp_path / f"{side}{seed}", {"t": {"acc": values.tolist()}}) for seed, values in seeds.items()}
        for side, seeds in answers.items()
    ]
    found = item_test("t", "acc", *sides)
    means = np.mean([answers["arm"][seed] - answers["reference"][seed] for seed in (1, 2, 3)], axis=0)
    error = bootstrap_error(means, np.ones(400))
    assert found.mean == pytest.approx(means.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.966 * error, rel=0.05)
    assert found.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_perplexity_of_documents_counts_words_and_keeps_its_direction(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    words = generator.integers(20, 400, 60)
    theirs = -words * generator.normal(3.0, 0.3, 60)
    ours = theirs + words * generator.normal(0.05, 0.1, 60)  # more likely: a lower perplexity
    sides = [
        {1: logs(tmp_path / name, {"wiki": {"word_perplexity": np.stack([values, words], axis=1).tolist()}})}
        for name, values in (("arm", ours), ("reference", theirs))
    ]
    found = item_test("wiki", "word_perplexity", *sides)
    assert found.mean == pytest.approx(-(ours - theirs).sum() / words.sum())
    assert found.mean < 0
    assert (found.high - found.low) / 2 == pytest.approx(2.001 * bootstrap_error(theirs - ours, words), rel=0.08)


@pytest.mark.parametrize("weighted", [True, False])
def test_group_takes_subtasks_as_wholes(tmp_path: Path, weighted: bool) -> None:
    generator = np.random.default_rng(7)
    sizes = generator.integers(20, 200, 30)
    kinds = generator.normal(0.03, 0.08, 30)  # a subtask gains or loses as a whole
    tasks: dict[str, dict] = {"arm": {}, "reference": {}}
    for place, (size, kind) in enumerate(zip(sizes, kinds, strict=True)):
        draws = generator.random(size)
        tasks["reference"][f"s{place}"] = {"acc": (draws < 0.6).astype(float).tolist()}
        tasks["arm"][f"s{place}"] = {"acc": (draws < 0.6 + kind).astype(float).tolist()}
    sides, means = [], {}
    for name, found in tasks.items():
        means[name] = np.array([np.mean(metrics["acc"]) for metrics in found.values()])
        score = float((means[name] * sizes).sum() / sizes.sum() if weighted else means[name].mean())
        sides.append({1: logs(tmp_path / name, found, {"group": (list(found), {"acc": score})})})
    result = item_test("group", "acc", *sides)
    weights = sizes.astype(float) if weighted else np.ones(30)
    totals = (means["arm"] - means["reference"]) * weights
    assert (result.items, result.clusters, result.gained) == (sizes.sum(), 30, None)
    assert result.mean == pytest.approx(totals.sum() / weights.sum())
    assert (result.high - result.low) / 2 == pytest.approx(2.045 * bootstrap_error(totals, weights), rel=0.08)
    # Items drawn one by one would claim to know more.
    items = np.concatenate(
        [np.subtract(tasks["arm"][f"s{i}"]["acc"], tasks["reference"][f"s{i}"]["acc"]) for i in range(30)]
    )
    assert mean_and_error(items, np.ones(len(items)))[1] < 0.8 * (result.high - result.low) / 2 / 2.045


def test_only_items_that_all_have_count_and_hashes_tell_them_apart(tmp_path: Path) -> None:
    arm = write_items(tmp_path / "arm", {"t": {"acc": [1.0] * 10}})
    reference = write_items(tmp_path / "reference", {"t": {"acc": [0.0] * 8}})
    sample = next((tmp_path / "reference").glob("samples_*"))
    # Another question under the number of an old one.
    sample.write_text(sample.read_text().replace('"doc_hash": "t3"', '"doc_hash": "other"'))
    found = item_test("t", "acc", {1: read_items(arm)}, {1: read_items(reference)})
    assert (found.items, found.gained) == (7, 7)
    assert item_test("t", "acc", {1: read_items(arm)}, {2: read_items(reference)}) is None
    assert item_test("t", "f1", {1: read_items(arm)}, {1: read_items(reference)}) is None
    single = logs(tmp_path / "single", {"t": {"acc": [1.0]}})
    assert item_test("t", "acc", {1: single}, {1: single}) is None


def test_mean_and_error_of_equal_sizes_are_the_textbook_ones() -> None:
    values = np.random.default_rng(8).normal(size=50)
    mean, error = mean_and_error(values, np.ones(50))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(stats.sem(values))
