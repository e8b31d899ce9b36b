"""Whether a checkpoint still holds what was written.

``torch.save`` writes zip archives with a CRC-32 of each record, a tensor's bytes or the pickle around them, and
``torch.load`` does not compare them: a flipped byte becomes another weight without a word. A single-file checkpoint is
one such archive, a shard file (``.distcp``) one for each tensor in it. So nothing is added to them here, and those that
older releases wrote are compared too. A sharded checkpoint's table of contents is no archive; its SHA-256 lies beside
it in ``SHA256SUMS``, as ``sha256sum -c`` reads it.

What is not detected changes nothing that is read: padding, dates and the like in an archive's directory.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tst_lightning.errors import UserError

SUMS_FILE = "SHA256SUMS"
_PIECE_BYTES = 1 << 20


class _Part(NamedTuple):
    """An archive in a file, or one record of it."""

    what: str
    bytes: int
    file: Path
    offset: int
    length: int
    record: str | None


def require_intact(path: str | Path, prefix: str = "", process: int = 0, processes: int = 1) -> None:
    """Refuse a checkpoint whose content is not what was written; reads all of it, at some 3 GB a second of CPU time.

    Args:
        path: of a single file or a sharded folder that is whole.
        prefix: of the names of a folder's entries to look at, such as ``state_dict.``; of a file all is looked at.
        process: which share of it to look at, if several processes do, each one about as many bytes.
        processes: how many they are.

    Raises:
        UserError: it is damaged; where, and what to do.
        OSError: it cannot be read.
    """
    path = Path(path)
    parts = list(_parts_of_folder(path, prefix) if path.is_dir() else _parts_of_file(path))
    total, start = sum(part.bytes for part in parts), 0
    for part in parts:
        if (start + part.bytes / 2) * processes // max(total, 1) == process:
            try:
                _read_all(part)
            except OSError:
                raise
            except Exception as error:  # zipfile, zlib and struct have many for what is none of theirs
                raise damaged(path, f"{part.what} is not what was written") from error
        start += part.bytes


def damaged(path: str | Path, reason: str) -> UserError:
    return UserError(
        f"the checkpoint '{path}' is damaged ({reason}; its checksum differs): give an earlier checkpoint of the run, "
        "or an intact copy of this one"
    )


def _parts_of_file(path: Path) -> Iterator[_Part]:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
    except OSError:
        raise
    except Exception as error:  # as above
        raise damaged(path, "its table of contents is not what was written") from error
    for record in records:
        what = f"'{record.filename}' from byte {record.header_offset} on"
        yield _Part(what, record.file_size, path, 0, size, record.filename)


def _parts_of_folder(path: Path, prefix: str) -> Iterator[_Part]:
    from tst_lightning.modeling.sharded_checkpoint import RUN_FILE, read_layout

    entries = read_layout(path).storage_data.items()
    # As they lie on the disk; files in the order of the processes that have written them.
    for index, entry in sorted(entries, key=lambda item: (len(item[1].relative_path), *_place(item[1]))):
        if index.fqn.startswith(prefix):
            what = f"'{index.fqn}' in {entry.relative_path} from byte {entry.offset} on"
            yield _Part(what, entry.length, path / entry.relative_path, entry.offset, entry.length, None)
    size = (path / RUN_FILE).stat().st_size
    yield _Part(RUN_FILE, size, path / RUN_FILE, 0, size, None)


def _place(entry: Any) -> tuple[str, int]:
    return entry.relative_path, entry.offset


def _read_all(part: _Part) -> None:
    """Python's ``zipfile`` compares the checksum at the end of each record."""
    with part.file.open("rb", buffering=0) as file, zipfile.ZipFile(_Window(file, part.offset, part.length)) as archive:
        for name in archive.namelist() if part.record is None else [part.record]:
            with archive.open(name) as record:
                while record.read(_PIECE_BYTES):
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


# The table of contents of a sharded checkpoint ---------------------------------------------------------------


def write_sums(folder: str | Path) -> None:
    """Write ``SHA256SUMS`` beside a sharded checkpoint's table of contents; by one process, when all have saved.

    Raises:
        OSError: it cannot be written.
    """
    from tst_lightning.modeling.sharded_checkpoint import LAYOUT_FILE, RUN_FILE

    folder = Path(folder)
    digest = hashlib.sha256((folder / LAYOUT_FILE).read_bytes()).hexdigest()
    (folder / SUMS_FILE).write_text(f"{digest}  {LAYOUT_FILE}\n")
    for name in (SUMS_FILE, RUN_FILE):  # which nobody has brought to the disk yet
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def same_sum(file: Path) -> bool:
    """Whether ``file`` is as ``SHA256SUMS`` beside it says; True if there is none, as of older releases."""
    try:
        lines = (file.parent / SUMS_FILE).read_text().splitlines()
    except FileNotFoundError:
        return True
    except ValueError:  # no text
        return False
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" in lines
