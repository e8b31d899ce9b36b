"""Whether a folder, or a place in object storage, already holds what a preparation is asked for."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tst_lightning.data.manifest import FILE_NAME, FORMAT_VERSION, Manifest
from tst_lightning.data.preparing.finish import versions
from tst_lightning.data.preparing.remote import remote_manifest
from tst_lightning.data.storage import is_remote
from tst_lightning.errors import UserError


def already_prepared(output_dir: str, options: dict[str, Any], may_change: list[str], overwrite: bool) -> bool:
    """Compare the manifest in a folder, or at a URL, with the options of a new preparation.

    Args:
        output_dir: Where to prepare.
        options: Every option that determines the result, as the manifest records them.
        may_change: Options that may differ without making the folder stale; a note is printed.
        overwrite: The corpus there is to be replaced anyway.

    Returns:
        True if just this is there, and nothing is to be done.

    Raises:
        UserError: it was prepared with other options, or the folder is not a prepared one.
    """
    if is_remote(output_dir):
        manifest = None if overwrite else remote_manifest(output_dir)
    else:
        manifest = _local_manifest(Path(output_dir), overwrite)
    if manifest is None:
        return False
    before, now = _flat(manifest.options), _flat(options)
    names = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    kept = [name for name in names if name.split(".")[0] in may_change]
    differences = [f"{name}: {before.get(name)} -> {now.get(name)}" for name in names if name not in kept]
    if differences:
        raise UserError(
            f"'{output_dir}' was prepared with other options ({'; '.join(differences)}): "
            "choose another output_dir, or replace it with --overwrite true"
        )
    print(f"already prepared: '{output_dir}'")
    if kept:
        print("  (the installed packages have changed since; --overwrite true prepares their documentation anew)")
    return True


def options_digest(options: dict[str, Any]) -> str:
    """Names the working folder: the same options, input and packages go on with what is there."""
    determining = [FORMAT_VERSION, options, {name: versions()[name] for name in ("tst-lightning", "tokenizers")}]
    return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:16]


def _local_manifest(target: Path, overwrite: bool) -> Manifest | None:
    if not target.exists():
        return None
    if not target.is_dir():
        raise UserError(f"output_dir '{target}' is a file: choose another, or move the file away")
    if not (target / FILE_NAME).is_file():
        if not any(target.iterdir()):
            return None
        # overwrite does not help here: it must not delete what prepare did not make.
        raise UserError(
            f"output_dir '{target}' holds other files and no {FILE_NAME}: choose another folder, or empty it"
        )
    return None if overwrite else Manifest.load(target)


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """``{"a": {"b": 1}}`` as ``{"a.b": "1"}``, values in JSON."""
    if isinstance(value, dict) and value:
        return {key: text for part in value for key, text in _flat(value[part], f"{name}.{part}").items()}
    return {name.removeprefix("."): json.dumps(value)}
