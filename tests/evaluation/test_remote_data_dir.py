"""Evaluation with a prepared corpus in object storage."""

import hashlib
import shutil
from pathlib import Path

import pytest
from object_storage import upload_folder

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.tokenizer import load_tokenizer
from tst_lightning.errors import UserError
from tst_lightning.evaluation.task_loading import load_tasks


def test_tokenizer_and_items_come_from_the_url(
    items_dir: Path, prepared_dir: Path, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(items_dir / "evaluation", prepared_dir / "evaluation")
    manifest = Manifest.load(prepared_dir)
    for path in (prepared_dir / "evaluation").iterdir():
        manifest.files[f"evaluation/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.save(prepared_dir)
    url = upload_folder(prepared_dir, f"{bucket_url}/corpus")
    assert load_tokenizer(url).get_vocab() == load_tokenizer(prepared_dir).get_vocab()
    tasks = load_tasks(["heldout"], url)["tasks"].values()
    local = load_tasks(["heldout"], prepared_dir)["tasks"].values()
    for task, same in zip(tasks, local, strict=True):
        assert list(task.test_docs()) == list(same.test_docs())
    assert (tmp_path / "home" / ".cache" / "tst-lightning").is_dir()


def test_a_wrong_url_is_named(bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for load in (load_tokenizer, lambda url: load_tasks(["heldout"], url)):
        with pytest.raises(UserError, match=f"no prepared corpus at '{bucket_url}/other'"):
            load(f"{bucket_url}/other")
