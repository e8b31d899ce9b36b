"""What a comparison keeps in a run's folder beside the files of `fit`; ``scoring`` has those of its evaluation.

=================  ==========================================================================================
``command.txt``    the `fit` command as a user would type it
``run.json``       the same as a list, and hashes of its config files: whose folder this is
``attempts.json``  when each attempt started and how long it took so far
``log.txt``        all that the run printed, attempt after attempt
``finished.json``  written last: the run is complete; where it comes from, and how long its parts took
=================  ==========================================================================================
"""

import json
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tst_lightning.comparison.design.config_files import says_the_same
from tst_lightning.comparison.design.experiment import CHECKPOINT_OPTION, PROGRAM, Run, adds_branch_points
from tst_lightning.errors import UserError
from tst_lightning.files import read_json, write_atomically

COMMAND_FILE = "command.txt"
IDENTITY_FILE = "run.json"
ATTEMPTS_FILE = "attempts.json"
LOG_FILE = "log.txt"
FINISHED_FILE = "finished.json"
PROGRESS_FILE = "progress.json"
CONFIG_FILE = "config.yaml"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED_FILE).is_file()


def check_identity(runs: list[Run]) -> None:
    """Refuse to continue or to count runs that other commands or other configs have begun.

    Raises:
        UserError: naming every such folder and what differs. Nothing is deleted.
    """
    problems = []
    for run in runs:
        differences = _differences(run)
        if differences:
            problems.append(f"'{run.folder}' belongs to another run: " + "; ".join(differences))
    if problems:
        raise UserError(
            "\n  ".join(problems) + "\nchoose another `output_dir`, or delete these folders to run them anew"
        )


def claim(run: Run) -> None:
    """Write whose folder this is, before the first attempt. As long as nothing else is there it may be replaced."""
    values = {"arguments": list(run.arguments), "config_sha256": run.config_hashes}
    write_atomically(run.folder / COMMAND_FILE, run.command + "\n")
    write_atomically(run.folder / IDENTITY_FILE, json.dumps(values, indent=2) + "\n")


def claim_ahead(runs: Sequence[Run]) -> int:
    """Claim the folders of all runs that have not begun, so that others may start them; returns how many."""
    waiting = [run for run in runs if not has_begun(run.folder)]
    for run in waiting:
        claim(run)
    return len(waiting)


def take_over(runs: Sequence[Run]) -> list[Run]:
    """Count runs as finished that something else has started by their command and that are done; returns them.

    Something else is a scheduler, for example. What this program has started itself counts only once it has seen
    it end well. Call ``check_identity`` before.
    """
    taken = [run for run in runs if _is_done_elsewhere(run.folder)]
    for run in taken:
        values = {"command": run.command, "finished": now_utc(), "started_by": "another program"}
        write_atomically(run.folder / FINISHED_FILE, json.dumps(values, indent=2) + "\n")
    return taken


class Attempts:
    """The attempts of one run on disk, so that times add up over restarts, even after a kill."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ATTEMPTS_FILE
        self._attempts: list[dict[str, Any]] = (read_json(self._path) or {}).get("attempts", [])

    def begin(self) -> None:
        self._attempts.append({"started": now_utc(), "wall_seconds": 0.0})
        self._save()

    def update(self, wall_seconds: float) -> None:
        self._attempts[-1]["wall_seconds"] = round(wall_seconds, 1)
        self._save()

    @property
    def count(self) -> int:
        return len(self._attempts)

    @property
    def wall_seconds(self) -> float:
        """Sum over attempts, start-up and any evaluation by `fit` included; a comparison's own evaluation is not."""
        return round(sum(attempt["wall_seconds"] for attempt in self._attempts), 1)

    @property
    def started(self) -> str:
        return self._attempts[0]["started"]

    def _save(self) -> None:
        write_atomically(self._path, json.dumps({"attempts": self._attempts}, indent=2) + "\n")


def finish(run: Run, attempts: Attempts, more: dict[str, Any], threads: int) -> None:
    """Write ``finished.json``: the last act of a run. ``more`` is where it comes from and what was measured."""
    values = {
        "command": run.command,
        "exit_code": 0,
        "wall_seconds": attempts.wall_seconds,
        "attempts": attempts.count,
        "started": attempts.started,
        "finished": now_utc(),
        "threads": threads,
        **more,
    }
    write_atomically(run.folder / FINISHED_FILE, json.dumps(values, indent=2) + "\n")


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines that a run printed, from its log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - 20_000))
            text = log.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    # A progress bar overwrites its line with carriage returns: only what it showed last counts.
    shown = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join([line for line in shown if line.strip()][-lines:])


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def has_begun(folder: Path) -> bool:
    """Whether a folder holds more than whose it is."""
    claims = {COMMAND_FILE, IDENTITY_FILE}
    return folder.is_dir() and any(
        path.name not in claims and not path.name.startswith(".") for path in folder.iterdir()
    )


def _is_done_elsewhere(folder: Path) -> bool:
    if is_finished(folder) or (folder / ATTEMPTS_FILE).exists() or not (folder / IDENTITY_FILE).is_file():
        return False
    progress = read_json(folder / PROGRESS_FILE) or {}
    if progress.get("done") is not True or not (folder / LAST_CHECKPOINT).exists():
        return False
    # `done` is said before the evaluation at the end of training.
    config = folder / CONFIG_FILE
    evaluates = config.is_file() and "DownstreamEvaluation" in config.read_text()
    return not evaluates or (folder / "evaluation" / f"step={progress.get('step')}").is_dir()


def _differences(run: Run) -> list[str]:
    if not has_begun(run.folder):
        return []
    identity = read_json(run.folder / IDENTITY_FILE)
    if identity is not None:
        old, old_hashes = identity.get("arguments", []), identity.get("config_sha256", {})
    elif (run.folder / COMMAND_FILE).is_file():
        words = shlex.split((run.folder / COMMAND_FILE).read_text())
        old, old_hashes = words[1:] if words[:1] == [PROGRAM] else words, run.config_hashes
    else:
        return []
    differences = []
    old, now = _of_the_model(old, old), _of_the_model(run.arguments, old)
    gone, new = _without(old, now), _without(now, old)
    if gone:
        differences.append(f"its command has {shlex.join(gone)}, this experiment does not")
    if new:
        differences.append(f"this experiment has {shlex.join(new)}, its command does not")
    if not gone and not new and _orders(old) != _orders(now):
        differences.append("the same options stand in another order")
    differences += [
        f"{path} says something else than when it was begun"
        for path, digest in run.config_hashes.items()
        if path in old_hashes and old_hashes[path] != digest and not says_the_same(path, old_hashes[path])
    ]
    return differences


def _of_the_model(arguments: Sequence[str], begun_with: Sequence[str]) -> list[str]:
    """Without what changes nothing of the trained model and may change with the experiment's lengths.

    Those are the points at which a run keeps checkpoints for branches, and, of a run that was begun as a whole one,
    the trunk that it would branch off today.
    """
    was_whole = not any(argument.startswith(f"{CHECKPOINT_OPTION}=") for argument in begun_with)
    return [
        argument
        for argument in arguments
        if not adds_branch_points(argument) and not (was_whole and argument.startswith(f"{CHECKPOINT_OPTION}="))
    ]


def _orders(arguments: Sequence[str]) -> set[tuple[str, str]]:
    """Pairs (earlier, later) of arguments whose order counts: the later may change what the earlier has set."""
    return {
        (earlier, later)
        for place, later in enumerate(arguments)
        for earlier in arguments[:place]
        if _meet(_key(earlier), _key(later))
    }


def _key(argument: str) -> str:
    """Dotted key of an option; empty for what may set any, such as a config file."""
    option = re.match(r"--([\w.]+)\+?=", argument)
    return option[1].removesuffix(".class_path") if option else ""


def _meet(key: str, other: str) -> bool:
    """Whether one lies within the other."""
    return not key or not other or f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _without(arguments, others) -> list[str]:
    """Arguments that others lack; a config file's name, which follows its flag, stands for both."""
    return [argument for argument in arguments if argument not in others]
