"""The embedded corpus: documentation strings of the standard library and of the installed packages.

English technical prose that is present on every machine that runs this project. Sources are parsed, never
imported. What is found depends on what is installed: one environment always gives the same documents in the
same order.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import multiprocessing
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tst_lightning.cores import available_cores
from tst_lightning.data.sources.base import WHOLE, Part, TextSource
from tst_lightning.errors import UserError

SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
"""Tests carry terse docstrings; installed packages are a root of their own."""


class SourceFile(NamedTuple):
    """A Python source and the top-level package or module it belongs to."""

    package: str
    path: Path


class InstalledDocs(TextSource):
    """Docstrings of the standard library and the installed packages, each module's one document.

    A docstring that occurs more than once is kept where it occurs first. Needs about 25 seconds on two
    cores for an installation of this project.
    """

    # Installing a package must not invalidate a corpus that was prepared before.
    content_must_match = False

    def __init__(self, packages: list[str] | None = None, max_bytes: int = 64_000_000) -> None:
        """
        Args:
            packages: Top-level packages or modules to read, e.g. [json, numpy]. Default: all of them.
            max_bytes: Bytes of text to stop at, in order of module names, standard library first.
        """
        super().__init__()
        if max_bytes < 1:
            raise UserError(f"max_bytes is {max_bytes}: it has to be at least 1")
        self.packages = packages
        self.max_bytes = max_bytes
        self._found: list[str] | None = None

    def documents(self, part: Part = WHOLE) -> Iterator[str]:
        # Kept after the first reading: training a tokenizer and encoding read twice, and parsing is slow.
        if self._found is None:
            self.skipped = Counter()
            self.bytes_read = 0
            found = []
            for document in self._read():
                found.append(document)
                yield document
            self._found = found
        else:
            yield from self._found
        self.bytes_read = self.size_bytes()

    def size_bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self.files())

    def content(self) -> dict[str, Any]:
        versions = sorted({f"{package.name}=={package.version}" for package in importlib.metadata.distributions()})
        return {
            "packages": len(versions),
            "package_versions_sha256": hashlib.sha256("\n".join(versions).encode()).hexdigest(),
        }

    def files(self) -> list[SourceFile]:
        """The Python sources to read: standard library, then installed packages, each sorted by path.

        Raises:
            UserError: one of ``packages`` is not installed.
        """
        names = sysconfig.get_paths()
        roots = dict.fromkeys(Path(names[name]) for name in ("stdlib", "purelib", "platlib"))
        files = [file for root in roots for file in _sources(root)]
        if self.packages is None:
            return files
        missing = sorted(set(self.packages) - {file.package for file in files})
        if missing:
            raise UserError(
                f"packages names {', '.join(missing)}, which is not installed as Python source: "
                "install it or take it out"
            )
        return [file for file in files if file.package in self.packages]

    def _read(self) -> Iterator[str]:
        files = self.files()
        seen: set[bytes] = set()
        total_bytes = 0
        for file, docstrings in zip(files, _parse_all([file.path for file in files]), strict=True):
            self.bytes_read += file.path.stat().st_size
            if docstrings is None:
                self.skipped["sources that are not valid Python"] += 1
                continue
            document = "\n\n".join(_unseen(docstrings, seen))
            if not document:
                continue
            total_bytes += len(document.encode())
            if total_bytes > self.max_bytes:
                return
            yield document


def module_docstrings(path: Path) -> list[str] | None:
    """Docstrings of a module, its classes and functions, in the order of the source; None if unparsable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return None
    return list(_docstrings(tree))


def _docstrings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        # A lone surrogate, legal in a Python string, is not text.
        if docstring and not any("\ud800" <= character <= "\udfff" for character in docstring):
            cleaned = inspect.cleandoc(docstring).strip()
            if cleaned:
                yield cleaned
    for statement in _statements(node):
        yield from _docstrings(statement)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements directly inside a statement. Expressions hold no docstrings: skipping them saves most."""
    for name in ("body", "handlers", "orelse", "finalbody"):
        children = getattr(node, name, None)
        if isinstance(children, list):
            yield from children


def _unseen(docstrings: list[str], seen: set[bytes]) -> Iterator[str]:
    for docstring in docstrings:
        digest = hashlib.blake2b(docstring.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield docstring


def _sources(root: Path) -> list[SourceFile]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        parts = Path(folder).relative_to(root).parts
        found += [(*parts, name) for name in names if name.endswith(".py")]
    return [SourceFile(parts[0].removesuffix(".py"), root.joinpath(*parts)) for parts in sorted(found)]


def _parse_all(paths: list[Path]) -> Iterator[list[str] | None]:
    """Parse in order, on all cores when there is enough to do."""
    processes = min(available_cores(), 16)
    # A daemonic process must not have children.
    if processes == 1 or len(paths) < 200 or multiprocessing.current_process().daemon:
        yield from map(module_docstrings, paths)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(module_docstrings, paths, chunksize=32)
