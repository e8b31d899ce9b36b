"""Sources made of local files: paths -> files -> parts."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_lightning.data.sources.base import WHOLE, Part, TextSource
from tst_lightning.data.sources.paths import describe_files, expand_paths


class FileSource(TextSource):
    """A source made of local files."""

    suffixes: tuple[str, ...] = ()
    """Endings that a folder is searched for. Files named one by one may have any."""

    def __init__(self, paths: list[str] | str) -> None:
        super().__init__()
        self.paths = [paths] if isinstance(paths, str) else list(paths)

    def files(self) -> list[Path]:
        """The files that ``paths`` stand for, in reading order."""
        return expand_paths(self.paths, self.suffixes)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())

    def content(self) -> dict[str, Any]:
        return describe_files(self.files())

    def parts(self, part_bytes: int) -> list[Part]:
        """Consecutive small files are one part together; a larger file is cut where its format allows it."""
        parts: list[Part] = []
        small: list[Path] = []
        small_bytes = 0
        for path in self.files():
            path = path.absolute()  # whoever reads a part may work in another folder
            size_bytes = path.stat().st_size
            if small and small_bytes + size_bytes > part_bytes:
                parts.append(whole_files(small, small_bytes))
                small, small_bytes = [], 0
            if size_bytes > part_bytes:
                parts += self.cut(path, size_bytes, part_bytes)
            else:
                small.append(path)
                small_bytes += size_bytes
        if small:
            parts.append(whole_files(small, small_bytes))
        return parts

    def cut(self, path: Path, size_bytes: int, part_bytes: int) -> list[Part]:
        """The parts of a file that is larger than ``part_bytes``; one, unless a format knows better."""
        return [whole_files([path], size_bytes)]

    def documents(self, part: Part = WHOLE) -> Iterator[str]:
        self.skipped = Counter()
        self.bytes_read = 0
        for path in map(Path, part.files) if part.files else self.files():
            before = self.bytes_read
            yield from self.file_documents(path, part)
            self.bytes_read = before + (path.stat().st_size if part.last is None else part.size_bytes)

    @abstractmethod
    def file_documents(self, path: Path, part: Part) -> Iterator[str]:
        """Yield the documents of one file of a part: all of them, or those from ``part.first`` to ``part.last``."""


def whole_files(paths: list[Path], size_bytes: int) -> Part:
    """A part of uncut files."""
    return Part(tuple(map(str, paths)), size_bytes=size_bytes)
