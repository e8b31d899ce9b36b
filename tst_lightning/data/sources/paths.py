"""Files from what a user typed: names, folders and patterns."""

import glob
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError


def expand_paths(paths: list[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Resolve files, folders (recursively, by ending) and glob patterns to files.

    Args:
        paths: What the user typed.
        suffixes: Endings that count inside folders, e.g. ``(".jsonl", ".jsonl.gz")``.

    Returns:
        Every file once: the arguments in their order, the files of a folder or pattern sorted.

    Raises:
        UserError: an argument stands for no file.
    """
    if not paths:
        raise UserError("paths is empty: name at least one file, folder or pattern")
    files: dict[Path, Path] = {}  # by what they resolve to: a file and a link to it count once
    for typed in paths:
        path = Path(typed).expanduser()
        if path.is_dir():
            found = _files_in(path, suffixes)
        elif path.exists():
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
            found = [name for name in found if name.is_file()]
            if not found:
                raise UserError(
                    f"no such file, folder or pattern: '{typed}' (looked from '{Path.cwd()}'): correct paths"
                )
        for name in found:
            files.setdefault(name.resolve(), name)
    return list(files.values())


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    everything = [path for path in folder.rglob("*") if path.is_file()]
    found = sorted(path for path in everything if path.name.lower().endswith(suffixes))
    if not found:
        endings = Counter(path.suffix or "no ending" for path in everything)
        holds = ", ".join(f"{count} x {ending}" for ending, count in endings.most_common(5)) or "nothing"
        raise UserError(
            f"folder '{folder}' holds no {', '.join(suffixes)} file (it holds: {holds}): "
            "correct paths, or use the source for what it holds"
        )
    return found


def describe_files(files: list[Path]) -> dict[str, Any]:
    """Number and total size of files, and a digest of their names and sizes (no folder names)."""
    sizes = [(path.name, path.stat().st_size) for path in files]
    listing = "\n".join(f"{name}\t{size}" for name, size in sizes)
    return {
        "files": len(sizes),
        "bytes": sum(size for _, size in sizes),
        "names_and_sizes_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }
