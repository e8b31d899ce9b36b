import json
from pathlib import Path

import pytest

from tst_lightning.comparison.design.scoring import EvaluationSpec, evaluation_seconds, finish_evaluation, is_evaluated


def trained(folder: Path, step: int = 600) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.json").write_text(json.dumps({"step": step}))
    return folder


def test_the_command_evaluates_the_last_checkpoint(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    spec = EvaluationSpec(["arc_easy", "piqa"], task_data_dir="copies", limit=50, precision="bf16")
    assert spec.arguments(folder) == [
        *("evaluate", "--ckpt_path", f"{folder}/checkpoints/last.ckpt", "--tasks", "arc_easy,piqa"),
        *("--output_dir", f"{folder}/evaluation/compare-1/step=600"),
        *("--task_data_dir", "copies", "--limit", "50", "--precision", "bf16"),
    ]
    assert EvaluationSpec(["piqa"]).arguments(folder)[-2:] == [
        "--output_dir",
        f"{folder}/evaluation/compare-1/step=600",
    ]


def test_done_is_only_what_was_evaluated_in_the_same_way_at_the_same_step(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    spec = EvaluationSpec(["piqa"])
    assert not is_evaluated(spec, folder)
    assert evaluation_seconds(folder) is None
    finish_evaluation(folder, spec.arguments(folder), 12.34)
    assert is_evaluated(spec, folder)
    assert evaluation_seconds(folder) == 12.3
    assert is_evaluated(EvaluationSpec(["piqa"], arms=["x"]), folder)
    for other in ({"limit": 3}, {"precision": "bf16"}, {"task_data_dir": "copies"}):
        assert not is_evaluated(EvaluationSpec(["piqa"], **other), folder)
    trained(tmp_path, step=700)
    assert not is_evaluated(spec, folder)


def test_added_tasks_are_evaluated_alone_and_replace_nothing(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    finish_evaluation(folder, EvaluationSpec(["arc_easy", "piqa"], limit=5).arguments(folder), 10.0)
    more = EvaluationSpec(["blimp", "piqa", "lambada_openai"], limit=5)
    assert more.missing_tasks(folder) == ["blimp", "lambada_openai"]
    arguments = more.arguments(folder)
    assert arguments[3:7] == [
        *("--tasks", "blimp,lambada_openai", "--output_dir", f"{folder}/evaluation/compare-2/step=600")
    ]
    finish_evaluation(folder, arguments, 20.0)
    for tasks in (more.tasks, ["arc_easy"], ["lambada_openai", "arc_easy", "piqa", "blimp"]):
        assert is_evaluated(EvaluationSpec(tasks, limit=5), folder)
    assert not is_evaluated(EvaluationSpec(["blimp"]), folder)
    assert evaluation_seconds(folder) == 30.0


def test_a_file_of_one_evaluation_counts(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    arguments = EvaluationSpec(["piqa", "blimp"], limit=5).arguments(folder)
    (folder / "evaluation.json").write_text(json.dumps({"arguments": arguments, "step": 600, "wall_seconds": 7.5}))
    more = EvaluationSpec(["blimp", "arc_easy"], limit=5)
    assert more.missing_tasks(folder) == ["arc_easy"]
    finish_evaluation(folder, more.arguments(folder), 1.0)
    assert is_evaluated(EvaluationSpec(["piqa", "blimp", "arc_easy"], limit=5), folder)
    assert evaluation_seconds(folder) == 8.5


@pytest.mark.parametrize("text", ["", "{}", '{"evaluations": 3}', '{"evaluations": [{"step": 1}]}', "[1]"])
def test_a_list_of_evaluations_that_is_no_list_names_none(tmp_path: Path, text: str) -> None:
    folder = trained(tmp_path)
    (folder / "evaluation.json").write_text(text)
    assert EvaluationSpec(["piqa"]).missing_tasks(folder) == ["piqa"]


def test_arms_are_chosen_by_patterns_on_their_names_or_methods() -> None:
    spec = EvaluationSpec(["piqa"], arms=["*-6000", "b*"])
    assert [spec.wants(arm) for arm in ("tst-6000", "baseline-3000", "tst-3000")] == [True, True, False]
    assert EvaluationSpec(["piqa"]).wants("anything")
    spec = EvaluationSpec(["piqa"], arms=["tst", "tts", "bytes-*"])
    assert spec.wants("bytes-tst-10", "tst")
    assert not spec.wants("base-10", "base")
    (problem,) = spec.problems({"base-10": "base", "tst-10": "tst"})
    assert problem == "evaluation: nothing is named like 'tts', 'bytes-*': there are base, tst, base-10, tst-10"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "name at least one under `tasks`"),
        ({"limit": 0}, "limit is 0"),
        ({"task_data_dir": "nowhere"}, "no folder task_data_dir 'nowhere'"),
        ({"arms": []}, "nothing would be evaluated"),
        ({"tasks": ["piqa", "arc_esay"]}, "no task is called 'arc_esay' (did you mean 'arc_easy'"),
        ({"tasks": ["nowhere.yaml"]}, "no task file 'nowhere.yaml'"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    (problem,) = EvaluationSpec(**{"tasks": ["piqa"], **changes}).problems({"tst": "tst"})
    assert problem.startswith("evaluation: ")
    assert message in problem


def test_names_of_every_kind_are_known(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").touch()
    tasks = ["heldout", "heldout_last_word", "blimp", "blimp_causative", "ai2_arc", str(tmp_path / "own.yaml")]
    assert not EvaluationSpec(tasks).problems({"tst": "tst"})  # bundled, a group, one of its members, a tag and a file
