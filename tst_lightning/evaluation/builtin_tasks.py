"""Which folders of the installed lm-eval define given task names.

``TaskManager()`` parses some 14,000 YAML files, 8 to 10 s each time. Reading them as text takes a fraction
of a second and tells which few folders to parse.
"""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

_DEFINED_NAME = re.compile(r"^[\"']?(?:task|group)[\"']?\s*:\s*[\"']?([^\s\"'#]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)


def folders_defining(names: Iterable[str]) -> list[Path]:
    """Folders of lm-eval's tasks whose files mention one of ``names`` as a task, group or tag."""
    mention = _mention(names)
    return sorted({path.parent for path, text in _task_files() if mention.search(text)})


def unknown_names(names: Iterable[str]) -> list[str]:
    """Names that are neither bundled nor mentioned as a task, group or tag by any of lm-eval's files."""
    bundled = {path.stem for path in Path(__file__).with_name("tasks").glob("*.yaml")} | {"heldout"}
    unknown = [name for name in dict.fromkeys(names) if name not in bundled]
    if not unknown:
        return []
    mention, found = _mention(unknown), set()
    for _, text in _task_files():
        found.update(mention.findall(text))
        if found.issuperset(unknown):
            return []
    return [name for name in unknown if name not in found]


def similar_names(name: str) -> list[str]:
    """Up to three names of built-in tasks or groups that resemble ``name``."""
    known = {found for _, text in _task_files() for found in _DEFINED_NAME.findall(text)}
    return difflib.get_close_matches(name, sorted(known), n=3)


def _mention(names: Iterable[str]) -> re.Pattern[str]:
    """Finds ``names`` where a YAML file mentions one as a task, group or tag."""
    wanted = "|".join(re.escape(name) for name in names)
    return re.compile(
        rf"^[\"']?(?:task|group|tag|\s*-)[\"']?\s*:?\s*(?:task\s*:\s*)?[\"']?({wanted})[\"']?\s*(?:#.*)?$",
        re.MULTILINE,
    )


def _task_files() -> Iterable[tuple[Path, str]]:
    """Every YAML file with its text; shared templates carry no ``.yaml`` suffix but end in ``yaml``."""
    (package,) = importlib.util.find_spec("lm_eval").submodule_search_locations
    for path in Path(package, "tasks").rglob("*yaml"):
        if path.is_file():
            yield path, path.read_text(encoding="utf-8", errors="replace")
