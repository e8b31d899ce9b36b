"""Prepared corpora in object storage: moving single files, and a local copy of the small ones."""

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from tst_lightning.data.buckets import Bucket, open_bucket
from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.errors import UserError

DEFAULT_CACHE_DIR = Path("~/.cache/tst-lightning")
_SMALL_FILES = "corpora"


def is_remote(url: str | Path) -> bool:
    """Whether this is the URL of an object storage rather than a local path."""
    return "://" in str(url)


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Where copies of remote files are kept: ``cache_dir``, by default a folder in the user's cache."""
    return Path(cache_dir or DEFAULT_CACHE_DIR).expanduser()


class ObjectStorage:
    """The objects below a URL, by their names relative to it. Picklable; each process connects for itself.

    Args:
        url: ``s3://bucket/path`` or ``gs://bucket/path``. For S3, AWS_ENDPOINT_URL and the other settings of
            boto3 hold.
        attempts: per request, if the store does not answer or asks to slow down (S3). Few, where somebody
            waits for the error; 10 bear a minute without a connection.

    All methods raise ``UserError`` if the store cannot be used, with what to do about it.
    """

    def __init__(self, url: str, attempts: int = 3) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        parts = urlsplit(self.url)
        self._scheme, self._bucket_name, self._prefix = parts.scheme, parts.netloc, parts.path.strip("/")
        self._bucket: Bucket | None = None
        self._owner_pid: int | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_bucket": None}

    def put(self, local: Path, name: str) -> None:
        """Write or replace an object: readers see the old one or the new one."""
        self._open().upload(Path(local), self._key(name))

    def get(self, name: str, local: Path) -> None:
        """Copy an object to a local file, which appears whole or not at all.

        Raises:
            FileNotFoundError: there is no such object.
        """
        local = Path(local)
        aside = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            self.download(name, aside)
            aside.rename(local)
        finally:
            aside.unlink(missing_ok=True)

    def download(self, name: str, local: Path) -> None:
        """Write an object's bytes straight to ``local``: in part if this is killed.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._open().download(self._key(name), Path(local))

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self._open().exists(self._key(name))

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""
        self._open().delete(self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _open(self) -> Bucket:
        # Two processes that write to one inherited connection mix up each other's answers.
        if self._bucket is None or self._owner_pid != os.getpid():
            self._bucket = open_bucket(self._scheme, self._bucket_name, self.attempts)
            self._owner_pid = os.getpid()
        return self._bucket


def local_folder(data_dir: str | Path, cache_dir: str | Path | None = None) -> Path:
    """A local folder with a prepared corpus' manifest and every other file that is no shard.

    ``data_dir`` itself if it is local. Otherwise a copy, made once and kept; another manifest at the same URL
    makes another copy. Any number of processes may ask at once.

    Args:
        data_dir: folder or URL of a prepared corpus.
        cache_dir: where copies are kept, by default ``~/.cache/tst-lightning``.

    Raises:
        UserError: there is no prepared corpus, a file of it is missing or is not what the manifest says, the
            storage cannot be used, or the cache cannot be written.
    """
    if not is_remote(data_dir):
        return Path(data_dir)
    storage = ObjectStorage(str(data_dir))
    home = cache_folder(cache_dir) / _SMALL_FILES / hashlib.sha256(storage.url.encode()).hexdigest()[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / ".lock"):
            return _copy(storage, home)
    except FileNotFoundError:
        raise UserError(
            f"no prepared corpus at '{storage.url}' (it has no {FILE_NAME}): correct data_dir, or make one with "
            f"`tst-lightning prepare --output_dir {storage.url} ...`"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot keep a copy of '{storage.url}' in '{home}' ({error.strerror or error}): "
            "choose a cache_dir on a writable disk with free space"
        ) from error


def _copy(storage: ObjectStorage, home: Path) -> Path:
    """The copy below ``home`` for the manifest that is there now. The caller holds the lock."""
    for stale in home.glob("partial-*"):  # of a killed process
        shutil.rmtree(stale, ignore_errors=True)
    partial = home / f"partial-{uuid.uuid4().hex[:8]}"
    try:
        storage.get(FILE_NAME, partial / FILE_NAME)
        folder = home / _sha256(partial / FILE_NAME)[:16]
        if folder.is_dir():
            return folder
        manifest = Manifest.load(partial)
        _require_plain_names(storage.url, manifest)
        for name, sha256 in manifest.files.items():
            try:
                storage.get(name, partial / name)
            except FileNotFoundError:
                raise UserError(f"'{storage.url}' lacks '{name}': upload it, or prepare the corpus again") from None
            if _sha256(partial / name) != sha256:
                raise UserError(
                    f"'{storage.url}/{name}' is not the file that the manifest lists: it was truncated or altered, "
                    "or the corpus is being replaced; run `tst-lightning verify`, or prepare the corpus again"
                )
        partial.rename(folder)
        return folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_plain_names(url: str, manifest: Manifest) -> None:
    """Whoever wrote the bucket chooses these names; they must not lead out of the cache."""
    shards = [shard.file for split in (manifest.train, manifest.validation) for shard in split.shards]
    for name in (*manifest.files, *shards):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"the manifest of '{url}' lists a file '{name}' outside the corpus: prepare it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path``'s lock among the processes of this machine; the system frees it if one is killed."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            unlock(file)


def unlock(file: IO) -> None:
    """Release a lock by name rather than by closing: a process forked meanwhile has the file open as well."""
    fcntl.flock(file, fcntl.LOCK_UN)
