"""Small files that readers may open at any moment: they appear whole or not at all."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError

_PROBE_BYTES = 1 << 20


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``path`` aside and rename it into place, so that nobody sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file does not exist or holds none."""
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def require_writable(folder: str | Path, option: str) -> None:
    """Prove that a file fits into ``folder``, before hours are spent on what goes there.

    A folder that does not exist is not made, so that nothing is left of what is refused afterwards: the file is tried
    in the nearest one above it that does.

    Raises:
        UserError: it cannot be made or written; ``option`` is how the user names it.
    """
    probe, remedy = None, "make room, make it writable, or choose another"
    try:
        nearest = _nearest_existing(Path(folder))
        if nearest.is_file():
            remedy = f"give a folder, which '{nearest}' is not"
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        probe = nearest / f".writable.{os.getpid()}"
        probe.write_bytes(bytes(_PROBE_BYTES))
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        raise UserError(
            f"{option} '{folder}' cannot be written ({getattr(error, 'strerror', None) or error}): {remedy}"
        ) from error


def _nearest_existing(folder: Path) -> Path:
    """``folder``, or the nearest place above it that is there; raises ``OSError`` for a name that cannot be."""
    for place in (folder, *folder.parents):
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return place
    return folder
