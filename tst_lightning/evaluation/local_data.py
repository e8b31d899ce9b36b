"""lm-eval's own task definitions on local copies of their data.

A copy of a task's data is one of these below the given folder, looked for in this order::

    <task>.jsonl                        the split that the definition evaluates, one item a line
    <task>/<split>.jsonl                one file a split; the evaluated one must be there
    <group>/<subset>.jsonl              where the task is called <group>_<subset>, as in blimp_causative
    <group>/<subset>/<split>.jsonl

Only where the items come from is changed: prompts, choices, targets, metrics and the definition's own functions
stay. Items are read into memory, so no cache of ``datasets`` is touched.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from jinja2 import meta
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env

from tst_lightning.errors import UserError

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")


@dataclass(frozen=True)
class LocalCopy:
    """Files of a task, by split; ``evaluated`` is the split that the definition evaluates."""

    task: str
    files: dict[str, Path]
    evaluated: str


class LocalData:
    """A folder of local copies, and a task manager's definitions pointed at them.

    Args:
        folder: as the module describes.

    Raises:
        UserError: no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.copies: dict[str, LocalCopy] = {}
        """By task, once ``redirect`` has found them."""
        self.reading: LocalCopy | None = None
        """The copy that a task is being loaded from: what to name when that fails."""
        if not self.folder.is_dir():
            raise UserError(f"task_data_dir '{folder}' is not a folder: give the one that holds the tasks' files")

    def redirect(self, manager: TaskManager, names: Iterable[str]) -> list[str]:
        """Point the tasks that ``names`` stand for at their copies; returns the tasks that have none.

        Raises:
            UserError: a copy is not what its task reads.
        """
        missing = []
        for task in dict.fromkeys(task for name in names for task in leaf_tasks(manager, name)):
            entry = manager.task_index[task]
            copy = self.find(task, entry.cfg)
            if copy is None:
                missing.append(task)
                continue
            self.copies[task] = copy
            config = load_yaml(entry.yaml_path, resolve_func=True) | {
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {split: str(path.resolve()) for split, path in copy.files.items()}},
                "custom_dataset": self._reader(copy, _splits(entry.cfg)),
            }
            _check_shots(copy, config)
            manager.task_index[task] = replace(entry, yaml_path=None, cfg=config)
        return missing

    def find(self, task: str, config: dict[str, Any]) -> LocalCopy | None:
        """The copy of a task's data, if there is one."""
        evaluated = config.get("test_split") or config.get("validation_split")
        for place in self._places(task, config):
            if (file := place.with_name(f"{place.name}.jsonl")).is_file():
                return LocalCopy(task, {evaluated: file}, evaluated)
            files = {split: path for split in _splits(config) if (path := place / f"{split}.jsonl").is_file()}
            if evaluated in files:
                return LocalCopy(task, files, evaluated)
        return None

    def expected(self, task: str, config: dict[str, Any]) -> str:
        """The file names that ``find`` looks for."""
        return " or ".join(f"'{place}.jsonl'" for place in self._places(task, config))

    def contents(self) -> str:
        """What the folder holds, shortened."""
        names = sorted(path.name + "/" * path.is_dir() for path in self.folder.iterdir())
        return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "nothing"

    def _places(self, task: str, config: dict[str, Any]) -> list[Path]:
        subset = config.get("dataset_name")
        places = [self.folder / task]
        if subset and task.endswith(f"_{subset}"):
            places.append(self.folder / task.removesuffix(f"_{subset}") / subset)
        return places

    def _reader(self, copy: LocalCopy, splits: list[str]) -> Any:
        def read(**_: Any) -> DatasetDict:
            self.reading = copy
            found = {split: _read(copy.task, path) for split, path in copy.files.items()}
            # Splits that are named but not evaluated have no items; without shots nothing asks for them.
            empty = found[copy.evaluated].select(range(0))
            return DatasetDict(dict.fromkeys(splits, empty) | found)

        return read


def leaf_tasks(manager: TaskManager, name: str) -> Iterator[str]:
    """The tasks that a task, group or tag stands for, in order."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    members = entry.cfg.get("task") if entry.cfg else None
    if not isinstance(members, list):
        members = None if entry.yaml_path else sorted(entry.tags)
    if members is None:
        yield name
        return
    for member in members:
        yield from leaf_tasks(manager, member if isinstance(member, str) else member.get("task", member.get("group")))


def check_fields(task: Any, copy: LocalCopy) -> None:
    """Raise ``UserError`` if a loaded task's definition names a field that its items lack.

    lm-eval takes a ``doc_to_target: label`` without such a field for the text "label", and scores nonsense.
    """
    wanted: set[str] = set()
    for key in _TEMPLATES:
        template = task.get_config(key)
        if isinstance(template, str):
            bare = re.fullmatch(r"[A-Za-z_]\w*", template)
            wanted |= {template} if bare else meta.find_undeclared_variables(env.parse(template))
    if lacking := sorted(wanted - set(task.features)):
        raise UserError(mismatch(copy, f"no field {', '.join(map(repr, lacking))}", task.features))


def mismatch(copy: LocalCopy, reason: str, fields: Iterable[str] = ()) -> str:
    there = ", ".join(fields)
    return (
        f"'{copy.files[copy.evaluated]}' is not a copy of the data of task '{copy.task}': {reason}"
        + (f" (its fields: {there})" if there else "")
        + "; give the data set's own fields, one item a line"
    )


def _splits(config: dict[str, Any]) -> list[str]:
    fewshot = config.get("fewshot_config") or {}
    named = [*(config.get(key) for key in _SPLITS), fewshot.get("split") if isinstance(fewshot, dict) else None]
    return list(dict.fromkeys(split for split in named if split))


def _check_shots(copy: LocalCopy, config: dict[str, Any]) -> None:
    if not config.get("num_fewshot") or len(copy.files) > 1:
        return
    raise UserError(
        f"task '{copy.task}' shows {config['num_fewshot']} examples from another split, and "
        f"'{copy.files[copy.evaluated]}' is the only file: give '{copy.task}/<split>.jsonl' for each split"
    )


def _read(task: str, path: Path) -> Dataset:
    rows = []
    # Not splitlines: it also breaks lines at characters that JSON strings may hold.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        where = f"'{path}', line {number},"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON ({error}): task '{task}' reads one item a line there") from None
        if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
            fields = ", ".join(row) if isinstance(row, dict) else "none"
            raise UserError(f"{where} has the fields {fields}, unlike line 1: give task '{task}' items of one kind")
        rows.append(row)
    if not rows:
        raise UserError(f"'{path}' is empty: task '{task}' reads its items there, one a line")
    return Dataset.from_list(rows)
