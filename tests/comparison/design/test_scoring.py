import json
from pathlib import Path

import pytest

from tst_lightning.comparison.design.scoring import EvaluationSpec, evaluation_seconds, finish_evaluation, is_evaluated
from tst_lightning.errors import UserError


def trained(folder: Path, step: int = 600) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.json").write_text(json.dumps({"step": step}))
    return folder


def test_the_command_evaluates_the_last_checkpoint(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    spec = EvaluationSpec(["arc_easy", "piqa"], task_data_dir="copies", limit=50, precision="bf16")
    assert spec.arguments(folder) == [
        *("evaluate", "--ckpt_path", f"{folder}/checkpoints/last.ckpt", "--tasks", "arc_easy,piqa"),
        *("--output_dir", f"{folder}/evaluation/step=600"),
        *("--task_data_dir", "copies", "--limit", "50", "--precision", "bf16"),
    ]
    assert EvaluationSpec(["piqa"]).arguments(folder)[-2:] == ["--output_dir", f"{folder}/evaluation/step=600"]


def test_done_is_only_what_the_same_command_did_to_the_same_step(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    spec = EvaluationSpec(["piqa"])
    assert not is_evaluated(spec, folder)
    assert evaluation_seconds(folder) is None
    finish_evaluation(folder, spec.arguments(folder), 12.34)
    assert is_evaluated(spec, folder)
    assert evaluation_seconds(folder) == 12.3
    assert json.loads((folder / "evaluation.json").read_text())["step"] == 600
    assert is_evaluated(EvaluationSpec(["piqa"], arms=["x"]), folder)
    assert not is_evaluated(EvaluationSpec(["piqa"], limit=3), folder)
    assert not is_evaluated(EvaluationSpec(["piqa", "blimp"]), folder)
    trained(tmp_path, step=700)
    assert not is_evaluated(spec, folder)


def test_arms_are_chosen_by_patterns() -> None:
    spec = EvaluationSpec(["piqa"], arms=["*-6000", "b*"])
    assert [spec.wants(arm) for arm in ("tst-6000", "baseline-3000", "tst-3000")] == [True, True, False]
    assert EvaluationSpec(["piqa"]).wants("anything")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": []}, "name at least one under `tasks`"),
        ({"limit": 0}, "limit is 0"),
        ({"task_data_dir": "nowhere"}, "no folder task_data_dir 'nowhere'"),
        ({"arms": []}, "nothing would be evaluated"),
    ],
)
def test_bad_values(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationSpec(**{"tasks": ["piqa"], **changes}).validate()
