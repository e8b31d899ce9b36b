"""Saved results: what lm-eval's own tools and paired tests find in them."""

import json
from pathlib import Path

import pytest

from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD
from tst_lightning.evaluation.run import evaluate_tasks
from tst_lightning.evaluation.saving import save_results
from tst_lightning.evaluation.task_loading import load_tasks


@pytest.fixture
def results(model, tokenizer, items_dir: Path) -> dict:
    return evaluate_tasks(model, tokenizer, load_tasks(["heldout"], items_dir), source="here")


def test_saved_files_are_standard_and_replace_earlier_ones(results, tmp_path: Path) -> None:
    from lm_eval.utils import make_table

    folder = tmp_path / "evaluation" / "step=7"
    folder.mkdir(parents=True)
    (folder / "results_older.json").write_text("{}")
    save_results(results, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["step=7"]
    (aggregated,) = folder.glob("results_*.json")
    read = json.loads(aggregated.read_text())
    assert read["results"] == json.loads(json.dumps(results["results"]))
    assert read["config"]["model"] == "here"
    assert "samples" not in read
    assert read["model_source"] == "tst-lightning"
    assert {"date", "lm_eval_version", "tst_lightning_version", "versions", "configs"} <= read.keys()
    assert CONTINUATION in make_table(read)
    for task in (LAST_WORD, CONTINUATION):
        (samples,) = folder.glob(f"samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        assert [row["doc_id"] for row in rows] == list(range(12))
        assert {"doc_hash", "filtered_resps", "acc"} <= rows[0].keys()
        assert [row["acc"] for row in rows] == [sample["acc"] for sample in results["samples"][task]]
    # Saving turns numbers into strings, in a copy.
    assert isinstance(results["samples"][LAST_WORD][0]["filtered_resps"][0][0], float)


def test_failed_saving_keeps_the_earlier_results(results, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "step=7"
    folder.mkdir()
    (folder / "results_older.json").write_text("{}")

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="could not write"):
            save_results(results, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step=7"]
    assert [path.name for path in folder.iterdir()] == ["results_older.json"]


def read_items(folder: Path, task: str) -> list[dict]:
    (path,) = folder.glob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("task", [LAST_WORD, CONTINUATION])
def test_scores_are_the_full_items_without_their_texts(results, tmp_path: Path, task: str) -> None:
    save_results(results, tmp_path / "full", "full")
    save_results(results, tmp_path / "scores")
    full, scores = (read_items(tmp_path / kind, task) for kind in ("full", "scores"))
    texts = {"doc", "target", "arguments", "resps", "prompt_hash", "target_hash"}
    assert set(full[0]) - set(scores[0]) == texts
    assert scores == [{key: value for key, value in item.items() if key not in texts} for item in full]
    # The hashes of prompts and targets stay in the results, task by task.
    paths = [next((tmp_path / kind).glob("results_*.json")) for kind in ("full", "scores")]
    hashes = [json.loads(path.read_text())["task_hashes"] for path in paths]
    assert hashes[0] == hashes[1]
    assert hashes[0].keys() == results["samples"].keys()
