"""Whether a folder already holds what a preparation is asked for."""

import json
from pathlib import Path
from typing import Any

from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.errors import UserError


def already_prepared(target: Path, options: dict[str, Any], may_change: list[str], overwrite: bool) -> bool:
    """Compare a folder's manifest with the options of a new preparation.

    Args:
        target: The folder to prepare into.
        options: Every option that determines the result, as the manifest records them.
        may_change: Options that may differ without making the folder stale; a note is printed.
        overwrite: The folder is to be replaced anyway.

    Returns:
        True if the folder holds just this, and nothing is to be done.

    Raises:
        UserError: the folder was prepared with other options, or is not a prepared one.
    """
    if not target.exists():
        return False
    if not target.is_dir():
        raise UserError(f"output_dir '{target}' is a file: choose another, or move the file away")
    if not (target / FILE_NAME).is_file():
        if not any(target.iterdir()):
            return False
        # overwrite does not help here: it must not delete what prepare did not make.
        raise UserError(
            f"output_dir '{target}' holds other files and no {FILE_NAME}: choose another folder, or empty it"
        )
    if overwrite:
        return False
    before, now = _flat(Manifest.load(target).options), _flat(options)
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    kept = [name for name in names if name.split(".")[0] in may_change]
    differences = [f"{name}: {before.get(name)} -> {now.get(name)}" for name in names if name not in kept]
    if differences:
        raise UserError(
            f"'{target}' was prepared with other options ({'; '.join(differences)}): "
            "choose another output_dir, or replace it with --overwrite true"
        )
    print(f"already prepared: '{target}'")
    if kept:
        print("  (the installed packages have changed since; --overwrite true prepares their documentation anew)")
    return True


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """``{"a": {"b": 1}}`` as ``{"a.b": "1"}``, values in JSON."""
    if isinstance(value, dict) and value:
        return {key: text for part in value for key, text in _flat(value[part], f"{name}.{part}").items()}
    return {name.removeprefix("."): json.dumps(value)}
