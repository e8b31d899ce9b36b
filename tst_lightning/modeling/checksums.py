"""Whether a checkpoint still holds what was written.

``torch.save`` writes zip archives with a CRC-32 of each record, a tensor's bytes or the pickle around them, and
``torch.load`` does not compare them: a flipped byte becomes another weight without a word. A single-file checkpoint is
one such archive, a shard file (``.distcp``) one for each tensor in it. So nothing is added to them here, and those that
older releases wrote are compared too. A sharded checkpoint's table of contents is no archive: see ``layout_sum``.

What is not detected changes nothing that is read: padding, dates and the like in an archive's directory.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tst_lightning.errors import UserError
from tst_lightning.modeling.other_checkpoints import remedy

_PIECE_BYTES = 1 << 20
_Part = TypeVar("_Part")


class Archive(NamedTuple):
    """Where in a checkpoint an archive lies, and what the user is told of it."""

    what: str
    file: Path
    offset: int
    length: int


def require_intact_file(path: str | Path, process: int = 0, processes: int = 1) -> None:
    """Refuse a single-file checkpoint whose content is not what was written; reads at some 3 GB a second of CPU time.

    Args:
        path: of a file that is whole.
        process: which share of it to look at, if several processes do, each one about as many bytes.
        processes: how many they are.

    Raises:
        UserError: it is damaged; where, and what to do.
        OSError: it cannot be read.
    """
    path = Path(path)
    with (
        _refused(path, "its table of contents"),
        path.open("rb", buffering=0) as file,
        zipfile.ZipFile(file) as archive,  # once: it parses the table of contents, which names every tensor
    ):
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        for record in _share(records, lambda record: record.file_size, process, processes):
            with _refused(path, f"'{record.filename}' from byte {record.header_offset} on"):
                _read_record(archive, record)


def require_intact_archives(
    path: str | Path, archives: Iterable[Archive], process: int = 0, processes: int = 1
) -> None:
    """The same of a checkpoint ``path`` that is made of ``archives``, of which each process looks at whole ones."""
    for place in _share(list(archives), lambda place: place.length, process, processes):
        with (
            _refused(path, place.what),
            place.file.open("rb", buffering=0) as file,
            zipfile.ZipFile(_Window(file, place.offset, place.length)) as archive,
        ):
            for record in archive.infolist():
                _read_record(archive, record)


def damaged(path: str | Path, reason: str) -> UserError:
    """What to raise for a checkpoint that is not what was written; names the others of its folder."""
    return UserError(f"the checkpoint '{path}' is damaged ({reason}; its checksum differs): {remedy(path)}")


@contextmanager
def _refused(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # zipfile, zlib and struct have many for what is none of theirs
        raise damaged(path, f"{what} is not what was written") from error


def _share(parts: list[_Part], bytes_of: Callable[[_Part], int], process: int, processes: int) -> Iterator[_Part]:
    """Those of ``parts`` whose middle lies in the share of ``process``, if all bytes are dealt out in order."""
    total, start = sum(map(bytes_of, parts)), 0
    for part in parts:
        if (start + bytes_of(part) / 2) * processes // max(total, 1) == process:
            yield part
        start += bytes_of(part)


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Python's ``zipfile`` compares the checksum at the end of each record."""
    with archive.open(record) as content:
        while content.read(_PIECE_BYTES):
            pass


class _Window:
    """``length`` bytes of a file from ``offset`` on: as much of a file as ``zipfile`` reads."""

    def __init__(self, file: Any, offset: int, length: int) -> None:
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence] + offset
        if position < 0:
            raise ValueError("a place before the beginning")
        self._position = position
        return position

    def read(self, count: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        self._file.seek(self._offset + self._position)
        content = self._file.read(left if count is None or count < 0 else min(count, left))
        self._position += len(content)
        return content
