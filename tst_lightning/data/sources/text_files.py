"""Plain text files, one document each."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from tst_lightning.data.sources.base import Part
from tst_lightning.data.sources.files import FileSource


class TextFiles(FileSource):
    """Plain text or Markdown, one document a file.

    A file that cannot be read, or that is not UTF-8, is skipped with a warning and counted in the manifest.
    """

    suffixes = (".txt", ".text", ".md", ".markdown")

    def __init__(self, paths: list[str] | str) -> None:
        """
        Args:
            paths: Files, folders (searched for .txt, .text, .md and .markdown) or patterns such as notes/*.txt.
        """
        super().__init__(paths)

    def file_documents(self, path: Path, part: Part) -> Iterator[str]:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._skip(path, "files that are not UTF-8", str(error))
        except OSError as error:
            self._skip(path, "unreadable files", str(error))
        else:
            yield text

    def _skip(self, path: Path, reason: str, detail: str) -> None:
        self.skipped[reason] += 1
        warnings.warn(f"skipped '{path}': {detail}", stacklevel=2)
