"""``tst-lightning verify``: whether a prepared corpus is what its manifest says, byte for byte."""

import hashlib
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tst_lightning.cores import available_cores
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.preparing.progress import SECONDS_BETWEEN_LINES
from tst_lightning.data.preparing.remote import remote_manifest
from tst_lightning.data.shard_format import shard_bytes
from tst_lightning.data.storage import ObjectStorage, is_remote
from tst_lightning.errors import UserError

PIECE_BYTES = 1 << 20
NAMED_PROBLEMS = 20
"""A message names this many at most, and counts the others."""


class Listed(NamedTuple):
    """A file as the manifest lists it."""

    name: str
    sha256: str
    size_bytes: int | None
    """Known of shards alone."""


def verify(data_dir: str) -> None:
    """Check every file of a prepared corpus: that it is there, and its size and checksum.

    A corpus in object storage is checked by downloading its files one by one to a temporary folder.

    Args:
        data_dir: Folder that `tst-lightning prepare` wrote, or its URL.

    Raises:
        UserError: there is no prepared corpus, or some files are missing, truncated or altered; all are named.
    """
    manifest = _load_manifest(data_dir)
    files = listed_files(manifest)
    total_bytes = sum(file.size_bytes or 0 for file in files)
    bar = tqdm(
        desc="verifying", total=total_bytes, unit="B", unit_scale=True,
        mininterval=0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES,
    )  # fmt: skip
    check = _check_remote(data_dir) if is_remote(data_dir) else _check_local(Path(data_dir))
    # hashlib and the disk work outside Python's lock.
    with bar, ThreadPoolExecutor(available_cores()) as executor:
        found = list(executor.map(lambda file: check(file, bar.update), files))
    problems = [problem for problem in found if problem is not None]
    if problems:
        named = "; ".join(problems[:NAMED_PROBLEMS])
        more = f"; and {len(problems) - NAMED_PROBLEMS} more" if len(problems) > NAMED_PROBLEMS else ""
        raise UserError(
            f"{len(problems)} of {len(files)} files of '{data_dir}' are not what its manifest says: {named}{more}. "
            "Copy these files anew, or prepare the corpus again with --overwrite true"
        )
    print(f"'{data_dir}' is intact: {len(files):,} files, {total_bytes / 1e6:,.1f} MB of shards")


def listed_files(manifest: Manifest) -> list[Listed]:
    """Every file of a corpus but the manifest."""
    shards = [
        Listed(f"{name}/{shard.file}", shard.sha256, shard_bytes(shard.tokens, manifest.token_dtype))
        for name, split in (("train", manifest.train), ("validation", manifest.validation))
        for shard in split.shards
    ]
    return [Listed(name, sha256, None) for name, sha256 in manifest.files.items()] + shards


def _load_manifest(data_dir: str) -> Manifest:
    if not is_remote(data_dir):
        return Manifest.load(data_dir)
    manifest = remote_manifest(data_dir)
    if manifest is None:
        raise UserError(f"no prepared corpus at '{data_dir}' (it has no manifest.json): correct data_dir")
    return manifest


Check = Callable[[Listed, Callable[[int], object]], str | None]
"""Compares one file, reports the bytes of shards that it has read, and returns what is wrong with the file."""


def _check_local(folder: Path) -> Check:
    return lambda file, on_bytes: _problem(folder / file.name, file, on_bytes)


def _check_remote(url: str) -> Check:
    storage = ObjectStorage(url)

    def check(file: Listed, on_bytes: Callable[[int], object]) -> str | None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "file")
            try:
                storage.download(file.name, path)
            except FileNotFoundError:
                return f"{file.name} is missing"
            return _problem(path, file, on_bytes)

    return check


def _problem(path: Path, file: Listed, on_bytes: Callable[[int], object]) -> str | None:
    try:
        size_bytes = path.stat().st_size
        if file.size_bytes is not None and size_bytes != file.size_bytes:
            on_bytes(file.size_bytes)
            return f"{file.name} has {size_bytes:,} bytes instead of {file.size_bytes:,}"
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while piece := opened.read(PIECE_BYTES):
                digest.update(piece)
                if file.size_bytes is not None:
                    on_bytes(len(piece))
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror or error})"
    return None if digest.hexdigest() == file.sha256 else f"{file.name} is altered (its checksum differs)"
