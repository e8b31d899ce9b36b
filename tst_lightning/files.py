"""Small files that readers may open at any moment: they appear whole or not at all."""

import contextlib
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
    """Make ``folder`` and prove that a file fits into it, before hours are spent on what goes there.

    Raises:
        UserError: it cannot be made or written; ``option`` is how the user names it.
    """
    folder = Path(folder)
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE_BYTES))
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise UserError(
            f"{option} '{folder}' cannot be written ({error.strerror or error}): "
            "make room, make it writable, or choose another"
        ) from error
