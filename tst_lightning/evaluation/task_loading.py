"""From task names to loaded lm-eval tasks, or to one clear error within seconds.

Three kinds of names: the bundled tasks (``heldout_last_word``, ``heldout_continuation``, or ``heldout`` for
both), whose items lie in a prepared data folder; lm-eval's own; and paths of task YAML files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from lm_eval.tasks import TaskManager

from tst_lightning.errors import UserError
from tst_lightning.evaluation.builtin_tasks import folders_defining, similar_names
from tst_lightning.evaluation.bundled_tasks import BUNDLED, BUNDLED_GROUP, bundled_tasks, load_bundled
from tst_lightning.evaluation.local_data import LocalData, check_fields, mismatch
from tst_lightning.evaluation.quiet import quiet
from tst_lightning.hub import hub_offline, why_no_hub

_FEWSHOT_SEED = 1234
"""lm-eval's own default."""


def load_tasks(
    names: Sequence[str], data_dir: str | Path | None = None, task_data_dir: str | Path | None = None
) -> dict[str, Any]:
    """Load tasks with their data, from the Hugging Face cache if it is there, else from the hub.

    Loading renders the first item of each task, so what loads here also runs. The result can be evaluated
    any number of times. No random state of the process moves.

    Args:
        names: bundled tasks, lm-eval tasks, groups or tags, or paths of task YAML files.
        data_dir: the prepared data folder, or its URL, that holds the bundled tasks' items.
        task_data_dir: folder of local copies of the data of lm-eval's own tasks, laid out as ``local_data``
            describes. With it nothing is downloaded: a task that has no copy there must be in the cache.

    Of ``heldout``, a task that the corpus had too little text for is left out, and said to be.

    Returns:
        lm-eval's ``TaskDict``: "tasks", "groups" and "group_map".

    Raises:
        UserError: a name is unknown, a task's data cannot be had, or a task generates text.
    """
    loaded: dict[str, dict] = {"tasks": {}, "groups": {}, "group_map": {}}
    expanded = [task for name in names for task in (bundled_tasks(data_dir) if name == BUNDLED_GROUP else (name,))]
    with isolate_rng(), quiet():
        others = [name for name in expanded if name not in BUNDLED]
        manager = _manager(others)
        local = LocalData(task_data_dir) if task_data_dir else None
        if local:
            _redirect(local, manager, others)
        for name in dict.fromkeys(expanded):
            part = load_bundled(name, data_dir) if name in BUNDLED else _load_other(name, manager, local)
            for kind, entries in loaded.items():
                entries.update(part[kind])
    for name, task in loaded["tasks"].items():
        _prepare(name, task)
    return loaded


def _prepare(name: str, task: Any) -> None:
    if task.OUTPUT_TYPE == "generate_until":
        raise UserError(
            f"task '{name}' generates text, and only tasks that score log-likelihoods can be evaluated here "
            f"(multiple choice, last word, perplexity): leave it out"
        )
    # lm_eval.evaluate leaves these two to its caller.
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _manager(names: list[str]) -> TaskManager:
    """An index of the folders that define ``names`` and whatever their groups contain."""
    wanted = {name for name in names if not _is_yaml(name)}
    folders: list[Path] = []
    manager = TaskManager(include_defaults=False)
    searched: set[str] = set()
    while missing := wanted - searched - set(manager.all_tasks):
        searched |= missing
        folders = sorted({*folders, *folders_defining(missing)})
        manager = TaskManager(include_defaults=False, include_path=list(folders))
        wanted |= _members(manager, wanted)
    return manager


def _members(manager: TaskManager, names: set[str]) -> set[str]:
    """Names that the groups among ``names`` list as members, however deep."""
    members: set[str] = set()
    todo = list(names)
    while todo:
        entry = manager.task_index.get(todo.pop())
        listed = entry.cfg.get("task") if entry is not None and entry.cfg else None
        for item in listed if isinstance(listed, list) else []:
            name = item if isinstance(item, str) else item.get("task", item.get("group"))
            if isinstance(name, str) and name not in members:
                members.add(name)
                todo.append(name)
    return members


def _redirect(local: LocalData, manager: TaskManager, names: Sequence[str]) -> None:
    """Point lm-eval's own tasks at local copies; all that have none and are not in the cache make one error."""
    missing = []
    for task in local.redirect(manager, [name for name in names if not _is_yaml(name)]):
        try:
            with hub_offline():
                manager.load([task])
        except Exception:
            missing.append(task)
    if not missing:
        return
    listed = ", ".join(f"'{task}'" for task in missing[:5]) + (f" and {len(missing) - 5} more" * (len(missing) > 5))
    expected = local.expected(missing[0], manager.task_index[missing[0]].cfg)
    raise UserError(
        f"task_data_dir '{local.folder}' has no copy of the data of {listed} (expected for '{missing[0]}': {expected}; "
        f"there: {local.contents()}), nor has the Hugging Face cache: add the files, or leave these tasks out"
    )


def _load_copied(name: str, manager: TaskManager, local: LocalData) -> dict[str, Any]:
    """Load without downloading; where the items are local copies, check that they are what the task reads."""
    local.reading = None
    try:
        with hub_offline():
            loaded = manager.load([name])
    except UserError:
        raise
    except Exception as error:
        if local.reading is None:
            raise UserError(f"task '{name}' does not load: {_line(error)}") from error
        raise UserError(mismatch(local.reading, _line(error))) from error
    for task_name, task in loaded["tasks"].items():
        if copy := local.copies.get(task_name):
            check_fields(task, copy)
            task.set_config(key="custom_dataset", value=None)  # no code in the results file
    return loaded


def _load_other(name: str, manager: TaskManager, local: LocalData | None = None) -> dict[str, Any]:
    if _is_yaml(name):
        if not Path(name).is_file():
            raise UserError(f"no task file '{name}': give the path of an existing YAML file, or a task's name")
    elif name not in manager.task_index:
        similar = "".join(f" '{other}'," for other in similar_names(name)).rstrip(",")
        raise UserError(
            f"no task is called '{name}': choose {BUNDLED_GROUP!r} (the bundled ones), a task of lm-eval "
            f"{f'(did you mean{similar}?)' if similar else ''} or the path of a task's YAML file"
        )
    if local and not _is_yaml(name):
        return _load_copied(name, manager, local)
    try:
        with hub_offline():
            return manager.load([name])
    except Exception as error:
        local_error = error
    try:
        _demand_hub(name, manager, local_error)
        return manager.load([name])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task '{name}' does not load: {_line(error)}") from error


def _demand_hub(name: str, manager: TaskManager, local_error: Exception) -> None:
    """Return if it makes sense to try the hub; else say how the data can be had."""
    if isinstance(local_error, ImportError):
        raise UserError(f"task '{name}' needs a package that is not installed: {local_error}") from local_error
    reason = why_no_hub()
    if reason is None:
        return
    source = _dataset_path(name, manager)
    at = f" ('{source}')" if source else ""
    raise UserError(
        f"the data of task '{name}'{at} is not on this machine and {reason} [{_line(local_error)}]: run once "
        "with a connection and keep the cache (HF_HOME), or choose tasks that need no download "
        f"({', '.join(BUNDLED)})"
    ) from local_error


def _dataset_path(name: str, manager: TaskManager) -> str | None:
    names = (
        [name, *sorted(_members(manager, {name})), *sorted(manager.task_index.get(name).tags)]
        if (name in manager.task_index)
        else []
    )
    configs = (manager.task_index[member].cfg or {} for member in names if member in manager.task_index)
    return next((config["dataset_path"] for config in configs if "dataset_path" in config), None)


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
