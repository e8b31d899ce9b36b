import json
from pathlib import Path

from synthetic_runs import write_items, write_scores

from tst_lightning.comparison.analysis.evaluations import Evaluation, read_evaluation


def test_scores_come_from_the_last_evaluated_step_and_its_newest_file(tmp_path: Path) -> None:
    write_scores(tmp_path / "step=900", 0.5)
    write_scores(tmp_path / "step=1000", 0.3)
    newer = {"results": {"t": {"alias": "t", "acc,none": 0.75, "acc_stderr,none": "N/A", "acc,strict": 0.5}}}
    (tmp_path / "step=1000" / "results_2026-02-01T00-00-00.000000.json").write_text(json.dumps(newer))
    # Whatever else lies there is passed over.
    for name, text in {"results_2026-03-01.json": "{", "results_2026-04-01.json": "[]"}.items():
        (tmp_path / "step=1000" / name).write_text(text)
    (tmp_path / "step=1000" / "results_2026-05-01.json").write_text('{"results": [1]}')
    (tmp_path / "step=last").mkdir()
    found = read_evaluation(tmp_path)
    assert found.step == 1000
    assert [file.path.name[8:18] for file in found.results_files] == ["2026-02-01", "2026-01-01"]
    assert [(score.metric, score.value, score.stderr) for score in found.scores if score.task == "t"] == [
        ("acc", 0.75, None),
        ("acc (strict)", 0.5, None),
    ]
    assert {score.value for score in found.scores if score.task == "heldout_continuation"} == {0.3, 0.31}


def test_settings_that_scores_depend_on(tmp_path: Path) -> None:
    (tmp_path / "step=5").mkdir()
    values = {
        "results": {"piqa": {"acc,none": 0.5}},
        "config": {"limit": 5, "device": "cpu", "precision": "32"},
        "versions": {"piqa": 1.0},
    }
    (tmp_path / "step=5" / "results_x.json").write_text(json.dumps(values))
    (file,) = read_evaluation(tmp_path).results_files
    assert file.settings == {"limit": 5, "precision": "32", "version of piqa": 1.0}


def test_scores_know_groups_items_and_direction(tmp_path: Path) -> None:
    write_scores(tmp_path / "step=10", 0.3)
    scores = read_evaluation(tmp_path).scores
    by_key = {(score.task, score.metric): score for score in scores}
    choice = by_key["heldout_continuation", "acc"]
    assert (choice.value, choice.stderr, choice.items, choice.in_group) == (0.3, 0.02, 400, False)
    assert not by_key["heldout_last_word", "perplexity"].higher_is_better
    assert by_key["heldout_last_word", "acc"].higher_is_better
    assert [score.task for score in scores if score.in_group] == ["blimp_a", "blimp_b"]
    assert read_evaluation(tmp_path / "nowhere") == Evaluation()


def rename(path: Path, date: str) -> None:
    """Another date for a results file and the logs beside it."""
    for file in path.parent.iterdir():
        file.rename(file.with_name(file.name.replace("2026-01-01", date)))


def test_evaluations_of_one_step_add_up_and_the_newest_of_a_task_counts(tmp_path: Path) -> None:
    write_items(tmp_path / "step=100", {"piqa": {"acc": [1.0, 0.0]}, "boolq": {"acc": [1.0, 1.0]}})
    later = write_items(
        tmp_path / "compare" / "step=100", {"piqa": {"acc": [0.0, 0.0]}, "arc_easy": {"acc": [1.0, 0.0]}}
    )
    rename(later, "2026-02-01")
    rename(write_items(tmp_path / "compare" / "step=50", {"mmlu": {"acc": [1.0]}}), "2026-03-01")
    found = read_evaluation(tmp_path)
    assert found.step == 100
    assert {score.task: score.value for score in found.scores} == {"piqa": 0.0, "arc_easy": 0.5, "boolq": 1.0}
    assert [(file.path.parent.parent.name, file.tasks) for file in found.results_files] == [
        ("compare", ("piqa", "arc_easy")), (tmp_path.name, ("boolq",)),
    ]  # fmt: skip


def test_a_subtask_that_was_evaluated_anew_stays_a_part_of_its_group(tmp_path: Path) -> None:
    members = {"x": {"acc": [1.0]}, "y": {"acc": [0.0]}}
    write_items(tmp_path / "step=9", members, {"group": (["x", "y"], {"acc": 0.5})})
    rename(write_items(tmp_path / "compare" / "step=9", {"x": {"acc": [0.0]}}), "2026-02-01")
    scores = {score.task: score for score in read_evaluation(tmp_path).scores}
    assert {task: (score.value, score.in_group) for task, score in scores.items()} == {
        "x": (0.0, True), "y": (0.0, True), "group": (0.5, False),
    }  # fmt: skip
