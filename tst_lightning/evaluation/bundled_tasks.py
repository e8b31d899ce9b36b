"""The tasks that come with every prepared corpus, ``heldout_last_word`` and ``heldout_continuation``."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from tst_lightning.data.manifest import FILE_NAME, Manifest
from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD, TOO_LITTLE
from tst_lightning.data.storage import local_folder
from tst_lightning.errors import UserError

BUNDLED = (LAST_WORD, CONTINUATION)
BUNDLED_GROUP = "heldout"


def bundled_tasks(data_dir: str | Path | None) -> Sequence[str]:
    """All, or those that the corpus had enough text for; all, if it had for none, so that the first one is refused."""
    items = _items(data_dir) if data_dir is not None else {}
    there = [name for name in BUNDLED if items.get(name) != 0]
    for name in [name for name in BUNDLED if there and name not in there]:
        rank_zero_info(
            f"task '{name}' of '{BUNDLED_GROUP}' is left out: it has no items in '{data_dir}' ({TOO_LITTLE})"
        )
    return there or BUNDLED


def _items(data_dir: str | Path) -> dict[str, int]:
    """Number of items by task, as the manifest has them; nothing of what is no prepared corpus."""
    folder = local_folder(data_dir)
    return Manifest.load(folder).evaluation_items if (folder / FILE_NAME).is_file() else {}


def _items_file(name: str, data_dir: str | Path) -> Path:
    return (local_folder(data_dir) / "evaluation" / f"{name}.jsonl").resolve()


def load_bundled(name: str, data_dir: str | Path | None) -> dict[str, Any]:
    """lm-eval's ``TaskDict`` of one of ``BUNDLED``; raises ``UserError`` if there are no items, or damaged ones."""
    if data_dir is None:
        raise UserError(
            f"task '{name}' is made of a prepared corpus's held-out text, and no data folder is known: "
            "give `data_dir`, the folder that `tst-lightning prepare` wrote"
        )
    path = _items_file(name, data_dir)
    if not path.is_file():
        raise UserError(
            f"task '{name}' has no items in '{data_dir}' ('{path}' is missing): {_why_no_items(name, data_dir)}"
        )
    config = load_yaml(Path(__file__).parent / "tasks" / f"{name}.yaml")
    config["dataset_kwargs"] = {"data_files": {"test": str(path)}}
    # A cache of its own, thrown away: the user's would keep one entry per version of the file for ever, and
    # may not be writable.
    with tempfile.TemporaryDirectory() as cache:
        own_cache = {"cache_dir": cache, "keep_in_memory": True}
        loading = {**config, "dataset_kwargs": {**config["dataset_kwargs"], **own_cache}}
        try:
            loaded = TaskManager(include_defaults=False).load([loading])
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(
                f"'{path}' is not readable as items of '{name}' ({reason[:300]}): prepare the corpus again"
            ) from error
    loaded["tasks"][name].set_config(key="dataset_kwargs", value=config["dataset_kwargs"])
    return loaded


def _why_no_items(name: str, data_dir: str | Path) -> str:
    """The reason, and what to do."""
    if not (local_folder(data_dir) / FILE_NAME).is_file():
        return "that is no prepared corpus; give the folder that `tst-lightning prepare` wrote as data_dir"
    items = _items(data_dir)
    if name not in items:
        return "the corpus was prepared with evaluation_items 0; prepare it again without that, or leave the task out"
    if items[name]:
        return f"the corpus was prepared with {items[name]} of them; prepare it again, or copy it anew"
    others = ", ".join(other for other, count in items.items() if count)
    return f"{TOO_LITTLE}; prepare with a larger validation_fraction or a validation_source, or leave the task out" + (
        f" (there are items of {others})" if others else ""
    )
