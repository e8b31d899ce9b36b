"""What a user can go on from whose checkpoint is damaged: the others that lie beside it."""

import zipfile
from pathlib import Path

from tst_lightning.modeling.layout_sum import LAYOUT_FILE, RUN_FILE, same_sum

_LISTED = 3
"""Checkpoints that a message names."""


def remedy(path: str | Path) -> str:
    """What to do about a damaged checkpoint: the whole ones of the same folder, or that there is none.

    Args:
        path: of the damaged one, a file or a sharded folder.
    """
    path = Path(path)
    others = whole_beside(path)
    if not others:
        return (
            f"there is no other whole checkpoint in '{path.parent}': give an intact copy of this one, or start a new "
            "run without --ckpt_path in another folder (--trainer.default_root_dir); StepCheckpoint with "
            "keep_all: true keeps earlier ones"
        )
    names = ", ".join(f"'{other}'" for other in others[:_LISTED])
    more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    return f"give another checkpoint of its folder (newest first: {names}{more}), or an intact copy of this one"


def whole_beside(path: Path) -> list[Path]:
    """The other checkpoints of the folder that end where they should, the newest first.

    They are looked at, not read: whoever is given one compares its checksums. No ``require_whole`` either, whose
    message would come by here again where one of the others is damaged too.
    """
    dated = []
    for other in path.parent.glob("*.ckpt"):
        try:
            # Those that begin with a dot are unfinished.
            if other.name != path.name and not other.name.startswith(".") and _ends_as_it_should(other):
                dated.append((_written(other), other))
        except OSError:  # gone meanwhile, or not ours to read
            continue
    return [other for _, other in sorted(dated, reverse=True)]


def _ends_as_it_should(path: Path) -> bool:
    """``torch.save`` and each shard end with a zip archive's table of contents."""
    if path.is_file():
        return zipfile.is_zipfile(path)

    shards = list(path.glob("*.distcp"))
    layout = path / LAYOUT_FILE
    return (
        bool(shards)
        and layout.is_file()
        and all(map(zipfile.is_zipfile, [path / RUN_FILE, *shards]))
        and same_sum(layout)
    )


def _written(path: Path) -> int:
    """When, in ns; of a folder the last file, since a rename or a copy gives the folder another date."""
    return (
        max((file.stat().st_mtime_ns for file in path.iterdir()), default=0)
        if path.is_dir()
        else path.stat().st_mtime_ns
    )
