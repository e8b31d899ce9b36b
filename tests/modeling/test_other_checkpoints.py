"""tst_lightning.modeling.other_checkpoints: a damaged checkpoint's message names what is there to go on from."""

import hashlib
import os
import zipfile
from pathlib import Path

from tst_lightning.modeling.other_checkpoints import remedy, whole_beside


def archive(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data/0", bytes(64))
    return path


def sharded(folder: Path) -> Path:
    archive(folder / "meta.pt"), archive(folder / "__0_0.distcp"), archive(folder / "__1_0.distcp")
    (folder / ".metadata").write_bytes(b"contents")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'contents').hexdigest()}  .metadata\n")
    return folder


def dated(path: Path, seconds: int) -> Path:
    for file in path.iterdir() if path.is_dir() else [path]:
        os.utime(file, (seconds, seconds))
    return path


def test_the_others_newest_first(tmp_path: Path) -> None:
    for step, seconds in ((100, 40), (20, 70), (3, 10)):  # neither by name nor by step
        dated(archive(tmp_path / f"step={step}.ckpt"), seconds)
    dated(sharded(tmp_path / "step=7.ckpt"), 60)
    last = dated(archive(tmp_path / "last.ckpt"), 99)
    assert [path.name for path in whole_beside(last)] == ["step=20.ckpt", "step=7.ckpt", "step=100.ckpt", "step=3.ckpt"]
    message = remedy(str(last))
    assert f"newest first: '{tmp_path / 'step=20.ckpt'}', '{tmp_path / 'step=7.ckpt'}', " in message
    assert "step=100.ckpt' and 1 more)" in message
    assert "last.ckpt" not in message


def test_what_is_cut_off_or_unfinished_is_no_remedy(tmp_path: Path) -> None:
    last = archive(tmp_path / "last.ckpt")
    for path in (archive(tmp_path / "step=1.ckpt"), sharded(tmp_path / "step=2.ckpt") / "__1_0.distcp"):
        path.write_bytes(path.read_bytes()[:-30])
    sharded(tmp_path / "step=3.ckpt").joinpath(".metadata").write_bytes(b"others")
    sharded(tmp_path / "step=4.ckpt").joinpath("meta.pt").unlink()
    archive(tmp_path / ".step=5.ckpt")
    archive(tmp_path / "notes.zip")
    assert whole_beside(last) == []
    message = remedy(last)
    assert message.startswith(f"there is no other whole checkpoint in '{tmp_path}': ")
    assert "start a new run without --ckpt_path in another folder" in message


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    assert "there is no other whole checkpoint" in remedy(tmp_path / "gone" / "last.ckpt")
