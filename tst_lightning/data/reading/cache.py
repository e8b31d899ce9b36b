"""Shards of object storage on a local disk, within a limit: fetched on first use, evicted least recently used.

For any number of processes on one machine that share the folder. Of each shard there is at most one download
at a time, the others wait for it. A shard that is evicted stays readable for whoever has it mapped (POSIX
keeps an unlinked file until then); so disk use exceeds the limit by what is mapped, of which ``Shards`` keeps
little.

Files are called by the sha256 of their content, so corpora, splits and versions of a corpus can share a
folder::

    DIR/<sha256>.bin                whole and verified
    DIR/<sha256>.<bytes>.partial    being downloaded; locked while its writer lives, and counted in full
    DIR/.lock                       held while room is made and files get their names
"""

import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tst_lightning.data.manifest import Shard
from tst_lightning.data.shard_format import map_shard, shard_bytes
from tst_lightning.data.storage import ObjectStorage, cache_folder, locked, unlock
from tst_lightning.errors import UserError

MISSING_WAITS_SECONDS = (0.5, 1.0)
"""Not every store shows a new object at once. One that does not answer is asked again by ``ObjectStorage``."""
_WAIT_SECONDS = 0.05


class ShardCache:
    """See the module's description. Picklable; holds nothing but its two arguments.

    Args:
        cache_dir: where copies of remote files are kept, by default ``~/.cache/tst-lightning``.
        max_bytes: of all shards together, those of other runs with the same ``cache_dir`` included.
    """

    def __init__(self, cache_dir: str | Path | None, max_bytes: int) -> None:
        self.folder = cache_folder(cache_dir) / "shards"
        self.max_bytes = max_bytes

    def map(self, storage: ObjectStorage, shard: Shard, dtype: str) -> np.ndarray:
        """The token ids of a shard, 1-D: a memory map, good for as long as it is held.

        Args:
            storage: of the shard's split.
            shard: as the manifest lists it; not larger than the cache.
            dtype: of the ids.

        Raises:
            UserError: the object is missing, truncated or altered, the storage cannot be used, or the cache
                cannot be written.
        """
        size_bytes = shard_bytes(shard.tokens, dtype)
        whole = self.folder / f"{shard.sha256}.bin"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                # By the time that somebody else's download is done, the shard may have been evicted again.
                if (ids := _map_whole(whole, size_bytes, dtype)) is not None:
                    return ids
                if (file := self._claim(whole, size_bytes)) is not None:
                    try:
                        return self._fetch(storage, shard, dtype, Path(file.name), whole)
                    finally:
                        _release(file)
        except OSError as error:
            raise UserError(
                f"cannot keep '{storage.url}/{shard.file}' in '{self.folder}' ({error.strerror or error}): choose a "
                f"cache_dir on a writable disk with {self.max_bytes:,} bytes of free space, or a smaller cache"
            ) from error

    def _claim(self, whole: Path, size_bytes: int) -> BinaryIO | None:
        """The locked file to download into; None, after a wait, if it is worth looking again."""
        partial = whole.with_suffix(f".{size_bytes}.partial")
        with locked(self.folder / ".lock"):
            if _is_whole(whole, size_bytes):
                return None
            file = open(partial, "ab")  # noqa: SIM115 - its lock outlives this function
            claimed = _try_lock(file)
            if claimed:
                if self._make_room(size_bytes, partial.name):
                    return file
                partial.unlink()
        if claimed:
            time.sleep(_WAIT_SECONDS)  # downloads of others take up the room
        else:
            fcntl.flock(file, fcntl.LOCK_EX)  # another process is downloading it
        _release(file)
        return None

    def _make_room(self, needed_bytes: int, own_name: str) -> bool:
        """Evict whole shards until ``needed_bytes`` fit; False if downloads of other processes are in the way."""
        shards: list[tuple[int, int, str]] = []
        free_bytes = self.max_bytes - needed_bytes
        for entry in os.scandir(self.folder):
            if entry.name.endswith(".bin"):
                status = entry.stat()
                shards.append((status.st_mtime_ns, status.st_size, entry.path))
            elif entry.name.endswith(".partial") and entry.name != own_name:
                free_bytes -= _reserved_bytes(Path(entry.path))
        if free_bytes < 0:
            return False
        for _, size_bytes, path in sorted(shards, reverse=True):  # the last used first
            free_bytes -= size_bytes
            if free_bytes < 0:
                os.unlink(path)
        return True

    def _fetch(self, storage: ObjectStorage, shard: Shard, dtype: str, partial: Path, whole: Path) -> np.ndarray:
        try:
            _download(storage, shard, dtype, partial)
            # Mapped first: under its final name another process may evict it at once.
            ids = map_shard(partial, dtype)
            with locked(self.folder / ".lock"):
                partial.rename(whole)
            return ids
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _map_whole(whole: Path, size_bytes: int, dtype: str) -> np.ndarray | None:
    """A shard that is there, marked as used now; None if it is not there."""
    try:
        os.utime(whole)
        return map_shard(whole, dtype) if _is_whole(whole, size_bytes) else None
    except FileNotFoundError:
        return None


def _is_whole(whole: Path, size_bytes: int) -> bool:
    # A power failure may shorten a file that was complete when it got its name.
    return whole.is_file() and whole.stat().st_size == size_bytes


def _download(storage: ObjectStorage, shard: Shard, dtype: str, local: Path) -> None:
    """Fetch a shard and compare it with the manifest; a second time if it differs."""
    for _ in range(2):
        _download_if_there(storage, shard, local)
        with open(local, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                return
    got_bytes, listed_bytes = local.stat().st_size, shard_bytes(shard.tokens, dtype)
    raise UserError(
        f"'{storage.url}/{shard.file}' is not the shard that the manifest lists: truncated or altered "
        f"({got_bytes:,} bytes where {listed_bytes:,} are listed), or the corpus has been replaced since this run "
        "began; run `tst-lightning verify`, and upload or prepare the corpus again"
    )


def _download_if_there(storage: ObjectStorage, shard: Shard, local: Path) -> None:
    """Fetch a shard's object; where there is none, look again after a while."""
    for wait_seconds in (*MISSING_WAITS_SECONDS, None):
        try:
            return storage.download(shard.file, local)
        except FileNotFoundError:
            if wait_seconds is None:
                raise UserError(
                    f"'{storage.url}' lacks '{shard.file}', which its manifest lists: upload it, or prepare the corpus "
                    "again"
                ) from None
        time.sleep(wait_seconds)


def _reserved_bytes(partial: Path) -> int:
    """Room that another process' download takes up; one whose process was killed is removed."""
    try:
        with open(partial, "rb") as file:
            if _try_lock(file):
                partial.unlink()
                return 0
    except FileNotFoundError:  # it failed just now
        return 0
    return int(partial.suffixes[-2].lstrip("."))


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _release(file: BinaryIO) -> None:
    unlock(file)
    file.close()
