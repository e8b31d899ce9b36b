"""Checksums of local shards: each is compared with the manifest before a process first reads it, and remembered.

So a damaged shard is never trained on, however the text is shuffled, and the reading processes do the hashing: with
``num_workers`` of 1 or more, training does not wait for it unless a worker has nothing read ahead. ``Patrol`` goes
through the shards of the run meanwhile, so that damage ends a run in its first minutes, not on the day on which the
shard's turn comes, and a worker finds most of the work done.

What was compared is remembered in a small file per shard, by the file's size, inode and time of change: a resumed run,
another worker or another rank of the machine does not read it again. Shards of object storage are compared when they
are downloaded (``cache``).
"""

import fcntl
import hashlib
import json
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, get_args

from tst_lightning.data.manifest import Shard
from tst_lightning.data.storage import cache_folder, is_remote, unlock
from tst_lightning.errors import UserError

VerifyShards = Literal["background", "first_read", "none"]

REMEMBERED_BYTES = 4_000_000
"""A smaller file is hashed in milliseconds, which is not worth a file to remember it."""
LOOKS = 2_000
"""Micro-batches of the run that a patrol looks at to learn which shards are read, and in which order."""


class ShardChecksums:
    """Compares shards with the manifest, once each. Picklable.

    Args:
        cache_dir: of the data module; what was compared is remembered there, in ``verified/``. Where that cannot be
            written, nothing is remembered beyond the process.
    """

    def __init__(self, cache_dir: str | Path | None) -> None:
        self.folder = cache_folder(cache_dir) / "verified"
        self._compared: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compared": set()}

    def require(self, path: Path, shard: Shard) -> None:
        """Return if ``path`` is the shard that the manifest lists, by its sha256; waits for who is comparing it.

        Raises:
            UserError: it is another file, or cannot be read.
        """
        try:
            identity = _identity(path, shard)
            if identity in self._compared:
                return
            if os.stat(path).st_size < REMEMBERED_BYTES:
                _compare(path, shard)
            else:
                with self._note(path) as note:
                    if note is None or note.read() != identity:
                        _compare(path, shard)
                        _rewrite(note, identity)
        except OSError as error:
            raise UserError(
                f"'{path}' cannot be read ({error.strerror or error}): run `tst-lightning verify`, then copy or "
                "prepare the corpus again"
            ) from error
        self._compared.add(identity)

    @contextmanager
    def _note(self, path: Path) -> Iterator[IO[str] | None]:
        """The open file that says what was last compared at ``path``, locked; None if there can be none."""
        split = hashlib.sha256(os.fsencode(path.parent.absolute())).hexdigest()[:16]
        try:
            (self.folder / split).mkdir(parents=True, exist_ok=True)
            file = open(self.folder / split / path.name, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError:
            yield None
            return
        with file:
            with suppress(OSError):  # a file system without locks: two processes may compare the same shard
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                file.seek(0)
                yield file
            finally:
                # By name: a worker that was forked meanwhile has the file open as well.
                with suppress(OSError):
                    unlock(file)


class Patrol:
    """Compares the shards of a run with the manifest in a thread beside training, in the order in which it reads them.

    One in each machine, of its first process. Best effort in what it covers: what it has not come to, or not learnt
    of, is compared when it is first read.

    Args:
        mode: the data module's option. The thread is for ``background`` only.
        cache_dir: the data module's.

    Raises:
        UserError: no such mode.
    """

    def __init__(self, mode: VerifyShards, cache_dir: str | Path | None) -> None:
        if mode not in get_args(VerifyShards):
            raise UserError(f"data option verify_shards={mode!r}: choose {', '.join(get_args(VerifyShards))}")
        self.mode = mode
        self.checksums = None if mode == "none" else ShardChecksums(cache_dir)
        self._thread: threading.Thread | None = None
        self._damage: UserError | None = None

    def watch(self, data: Any) -> None:
        """Begin with the first call of a fit; raise what has been found since. Costs nothing else.

        Args:
            data: the ``TokenDataModule``, attached to a Trainer whose first batch is there: worker processes are
                forked by then, and none inherits the thread.

        Raises:
            UserError: a shard that the run reads, now or later, is damaged.
        """
        if self._thread is None and self.mode == "background" and data.trainer.local_rank == 0:
            self._thread = threading.Thread(target=self._run, args=(data, data.trainer), daemon=True)
            self._thread.start()
        if self._damage is not None:
            raise self._damage

    def forget(self) -> None:
        """Be ready for another fit."""
        self._thread = self._damage = None

    def _run(self, data: Any, trainer: Any) -> None:
        from lightning.pytorch.trainer.states import TrainerStatus

        thread = threading.current_thread()
        # Threads have priorities of their own on Linux; elsewhere this one has the process'.
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            for path, shard in shards_of_run(data):
                if self._thread is not thread or trainer.state.status != TrainerStatus.RUNNING:
                    return
                self.checksums.require(path, shard)
        except UserError as error:
            if self._thread is thread:
                self._damage = error
        except Exception as error:
            if self._thread is thread:  # else the data module has been set up for another fit meanwhile
                warnings.warn(
                    f"verify_shards=background has ended early ({type(error).__name__}: {error}): the shards that it "
                    "has not come to are compared when they are first read",
                    stacklevel=2,
                )


def shards_of_run(data: Any) -> Iterator[tuple[Path, Shard]]:
    """The local shards that the rest of a fit reads on any rank, in the order of their first use; validation first.

    Args:
        data: the ``TokenDataModule`` in its fit. Of a long run this looks at ``LOOKS`` micro-batches, evenly spaced,
            so it may miss a shard.
    """
    local = [corpus for corpus in data.corpora if not is_remote(corpus.data_dir)]
    for corpus in local:
        yield from ((corpus.folder / "validation" / shard.file, shard) for shard in corpus.manifest.validation.shards)
    plan, trainer = data.plan, data.trainer
    first, end = (step * plan.accumulate for step in (trainer.global_step, trainer.max_steps))
    seen: set[tuple[int, int]] = set()
    stride = max(1, (end - first) * plan.world_size // LOOKS)
    while math.gcd(stride, plan.world_size) > 1:  # or it would look at some ranks only
        stride += 1
    for look in range(first * plan.world_size, end * plan.world_size, stride):
        micro, rank = divmod(look, plan.world_size)
        for span in (span for row in plan.batch(micro, rank) for span in row):
            corpus = data.corpora[span.corpus]
            if (span.corpus, span.shard) not in seen and corpus in local:
                seen.add((span.corpus, span.shard))
                shard = corpus.manifest.train.shards[span.shard]
                yield corpus.folder / "train" / shard.file, shard


def _identity(path: Path, shard: Shard) -> str:
    status = os.stat(path)
    values = (str(path.absolute()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, shard.sha256)
    return json.dumps(values)


def _compare(path: Path, shard: Shard) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise UserError(
            f"'{path}' is not the shard that its manifest lists: sha256 {found}, expected {shard.sha256}. It was "
            "altered, or manifest.json is another corpus'; no batch has been made of it. Run `tst-lightning verify` "
            "for the whole list, then copy or prepare the corpus again"
        )


def _rewrite(note: IO[str] | None, identity: str) -> None:
    """Remember it; a disk that is full is no reason to stop."""
    if note is not None:
        with suppress(OSError):
            note.truncate(0)
            note.write(identity)
            note.flush()
