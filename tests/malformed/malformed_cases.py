"""What a malformed input is, how it is tried, and what is compared before and after.

A case names files that it writes into a folder of its own, the command line that it tries there, and the words that
the one message has to hold. ``{world}`` stands for the folder of sound inputs that all cases share, ``{here}`` for the
case's own, which is also the current folder.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tst_lightning import cli

FIT = ("fit", "--config", "{world}/fit.yaml", "--trainer.default_root_dir", "{here}/run")
CHECKPOINT = "{world}/run/checkpoints/last.ckpt"

_PROGRESS = re.compile(r"(preparing|verifying|counting pairs): ")


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Args:
        arguments: what follows the program's name.
        words: patterns that the message must match, each somewhere: the value, the constraint, the remedy.
        files: contents by name, written into the case's folder; what is neither text nor bytes is written as YAML,
            or as JSON if the name ends so.
        make: does to that folder what contents cannot say; its second argument is the folder of sound inputs.
    """

    arguments: tuple[str, ...]
    words: tuple[str, ...]
    files: dict[str, Any] = field(default_factory=dict)
    make: Callable[[Path, Path], object] | None = None


def fit(*words: str, more: tuple[str, ...] = (), config: Any = None, **options: Any) -> Case:
    """A ``fit`` that works but for further arguments, or for a config laid over."""
    overlay = () if config is None else ("--config", "bad.yaml")
    files = {} if config is None else {"bad.yaml": config}
    return Case((*FIT, *overlay, *more), words, files, **options)


def callback(name: str, **init_args: Any) -> dict[str, Any]:
    """A config that adds a callback."""
    return {"trainer": {"callbacks+": [{"class_path": name, "init_args": init_args}]}}


def superposition(**init_args: Any) -> dict[str, Any]:
    """A config that adds the method."""
    return callback("callbacks.SuperpositionCallback", **init_args)


def parametrize(cases: dict[str, Case], fast_every: int = 1) -> pytest.MarkDecorator:
    """A test for each case, under its name; all but one in ``fast_every`` are marked slow."""
    marks = [pytest.mark.slow if place % fast_every else () for place in range(len(cases))]
    parameters = zip(cases.items(), marks, strict=True)
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name, marks=mark) for (name, case), mark in parameters]
    )


def write(case: Case, here: Path, world: Path) -> list[str]:
    """Make the case's files; returns its command line."""
    for name, content in case.files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str | bytes):
            content = json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False)
        if isinstance(content, str):
            content = content.replace("{world}", str(world)).replace("{here}", str(here)).encode()
        path.write_bytes(content)
    if case.make is not None:
        case.make(here, world)
    return [word.replace("{world}", str(world)).replace("{here}", str(here)) for word in case.arguments]


def snapshot(*folders: Path) -> dict[str, tuple]:
    """Names, sizes, times of change and hashes of everything in folders. Folders have no time: a probe changes it."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        status = path.lstat()
        if path.is_file() and not path.is_symlink():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (status.st_size, status.st_mtime_ns, digest)
        else:
            found[str(path)] = (status.st_mode,)
    return found


def one_message(standard_error: str) -> str:
    """The message, if it is all that a user is shown; line breaks within it are spaces."""
    assert "Traceback" not in standard_error, standard_error
    lines = [line for line in re.split(r"[\r\n]", standard_error) if line and not _PROGRESS.match(line)]
    assert lines, standard_error
    assert [line.startswith("error: ") for line in lines] == [True] + [False] * (len(lines) - 1), standard_error
    assert len(lines) <= 3, standard_error
    return " ".join(" ".join(lines).split())


def require_refused(case: Case, here: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Try the case in this process: status 2, one message with all of its words, and nothing changed on disk."""
    arguments = write(case, here, world)
    before = snapshot(here, world)
    capsys.readouterr()
    status = cli.main(arguments)
    shown = capsys.readouterr()
    assert status == 2, shown
    message = one_message(shown.err)
    missing = [word for word in case.words if not re.search(word, message)]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) < 1500, message
    after = snapshot(here, world)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, sorted(changed)
