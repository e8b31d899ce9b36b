import json
from pathlib import Path

import pytest
import torch
from local_copies import write_copies

from tst_lightning.data.preparing.heldout import LAST_WORD
from tst_lightning.errors import UserError
from tst_lightning.evaluation.command import evaluate
from tst_lightning.evaluation.run import evaluate_tasks, scores
from tst_lightning.evaluation.task_loading import load_tasks


@pytest.fixture
def checkpoint(model, items_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "step=5.ckpt"
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "hugging_face_config": model.config.to_dict(),
        "data_dir": str(items_dir),
        "global_step": 5,
        "TokenDataModule": {"sequence_length": 40},
    }
    torch.save(content, path)
    return path


def test_checkpoint_gives_the_scores_of_the_model_in_memory(
    checkpoint: Path, model, tokenizer, items_dir: Path, tmp_path: Path, capsys
) -> None:
    evaluate(str(checkpoint), ["heldout"], output_dir=str(tmp_path / "out"), device="cpu")
    (aggregated,) = (tmp_path / "out").glob("results_*.json")
    read = json.loads(aggregated.read_text())
    expected = evaluate_tasks(model, tokenizer, load_tasks(["heldout"], items_dir), max_length=40)
    assert scores(read) == pytest.approx(scores(expected))
    assert read["config"]["step"] == 5
    assert read["config"]["max_length"] == 40
    assert "|heldout_last_word" in capsys.readouterr().out


def test_model_folder_with_its_own_tokenizer(model, tokenizer, items_dir: Path, tmp_path: Path, capsys) -> None:
    model.save_pretrained(tmp_path / "exported")
    tokenizer.save_pretrained(tmp_path / "exported")
    own_task = tmp_path / "own.yaml"
    items = items_dir / "evaluation" / f"{LAST_WORD}.jsonl"
    own_task.write_text(
        "task: own\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: '{items}'}}, cache_dir: '{tmp_path}'}}\n"
        "doc_to_text: context\ndoc_to_target: target\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    evaluate(str(tmp_path / "exported"), [str(own_task)], limit=2, device="cpu", precision="bf16")
    assert "|own" in capsys.readouterr().out


@pytest.mark.parametrize("log_items", ["scores", "full"])
def test_model_folder_on_local_copies(model, items_dir: Path, tmp_path: Path, capsys, log_items: str) -> None:
    """lm-eval's own tasks without a network: an exported folder, and the tokenizer of a prepared corpus."""
    model.save_pretrained(tmp_path / "exported")
    copies = write_copies(tmp_path / "copies", {"blimp": ["causative"]})
    evaluate(
        str(tmp_path / "exported"),
        "arc_easy,blimp_causative",
        data_dir=str(items_dir),
        task_data_dir=str(copies),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        log_items=log_items,
    )
    assert "|arc_easy" in capsys.readouterr().out
    (path,) = (tmp_path / "out").glob("samples_arc_easy_*.jsonl")
    items = [json.loads(line) for line in path.read_text().splitlines()]
    assert [item["doc_id"] for item in items] == [0, 1, 2]
    assert len({item["doc_hash"] for item in items}) == 3
    assert {item["acc"] for item in items} <= {0.0, 1.0}
    assert ("doc" in items[0]) == (log_items == "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, "no tasks given"),
        ({"limit": 0}, "limit is 0"),
        ({"batch_tokens": -1}, "batch_tokens is -1"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "toaster"}, "device 'toaster' cannot be used"),
        ({"task_data_dir": "nowhere"}, "task_data_dir 'nowhere' is not a folder"),
        ({"data_dir": "nowhere"}, "no tokenizer at 'nowhere"),
        ({"ckpt_path": "nowhere.ckpt"}, "no checkpoint at 'nowhere.ckpt'"),
    ],
)
def test_mistakes(checkpoint: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(**{"ckpt_path": str(checkpoint), "tasks": ["heldout"], "device": "cpu"} | change)


def test_unknown_data_folder(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint)
    torch.save(content | {"data_dir": ""}, checkpoint)
    with pytest.raises(UserError, match="give --data_dir"):
        evaluate(str(checkpoint), ["heldout"], device="cpu")
