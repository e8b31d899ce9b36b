"""The folder of sound inputs that malformed ones are tried beside."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tst_lightning import cli

TINY_MODEL = {
    "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="session")
def world(prepared_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``prepared/``, ``fit.yaml``, and in ``run/`` the two steps that this trains; do not write to it."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(prepared_source, folder / "prepared")
    model = {"config": {"class_path": "transformers.LlamaConfig", "init_args": TINY_MODEL}}
    data = {"data_dir": str(folder / "prepared"), "sequence_length": 16, "batch_size": 4, "num_workers": 0}
    trainer = {
        "accelerator": "cpu", "devices": 1, "max_steps": 2, "max_epochs": -1, "num_sanity_val_steps": 0,
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "check_val_every_n_epoch": None, "val_check_interval": 2,
        "callbacks": [{"class_path": "callbacks.StepCheckpoint"}],
    }  # fmt: skip
    (folder / "fit.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    (folder / "items.jsonl").write_text('{"text": "some words"}\n' * 3)
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
    }
    task |= {"output_type": "loglikelihood", "test_split": "test", "doc_to_text": "a", "doc_to_target": "{{text}}"}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    arguments = ["fit", "--config", str(folder / "fit.yaml"), "--trainer.default_root_dir", str(folder / "run")]
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main(arguments) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; the hub is away."""
    monkeypatch.setattr("tst_lightning.hub.why_no_hub", lambda: "the hub is away")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
