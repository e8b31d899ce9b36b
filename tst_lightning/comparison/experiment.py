"""What is compared: arms and seeds, and the one `fit` command that each of their runs is.

A run is nothing but a command line that the user could type, so whatever a comparison does can be repeated
by hand from the `command.txt` in the run's folder.
"""

import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from tst_lightning.comparison.arms import Arm, Overlay, Value
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

PROGRAM = "tst-lightning"
EXPERIMENT_FILE = "experiment.json"

SEED_KEYS = ("seed_everything", "model.init_seed", "data.seed")
"""Keys of `fit` that a run's seed sets: with all of them equal, two arms start from the same weights and
read the corpus in the same order."""

FOLDER_KEY = "trainer.default_root_dir"
"""Key of `fit` that a run's folder sets."""


@dataclass(frozen=True)
class Run:
    """One arm trained with one seed."""

    arm: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    """What follows the program's name, beginning with `fit`."""
    config_hashes: dict[str, str]
    """Config file -> sha256 of its values (comments and layout do not count)."""
    starts_from: Path | None = None
    """Checkpoint of another run (a trunk) that this one goes on from; it exists once that run has come so far."""
    steps: int | None = None
    """Optimizer steps that this run trains itself, if they are known beforehand; a branch trains its decay only."""

    @property
    def command(self) -> str:
        """The command line as a user would type it."""
        return shlex.join([PROGRAM, *self.arguments])

    @property
    def label(self) -> str:
        return f"{self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """Arms x seeds under one folder. ``validate`` before use."""

    name: str
    output_dir: Path
    seeds: tuple[int, ...]
    base: Overlay
    arms: dict[str, Arm]
    """By name, in the order in which they are run and shown."""
    baseline: str
    """The method that the others are compared with."""
    title: str = ""
    description: str = ""

    def pairs(self) -> list[tuple[str, str]]:
        """Names of arms that are compared with each other: (arm, reference)."""
        return [(arm.name, reference) for arm in self.arms.values() for reference in arm.references]

    def validate(self) -> None:
        """Check everything that can be known without parsing a `fit` command.

        Raises:
            UserError: naming every problem found.
        """
        problems = [*_name_problems(self), *_seed_problems(self.seeds)]
        for where, overlay in {"base": self.base, **{name: arm.overlay for name, arm in self.arms.items()}}.items():
            problems += [
                f"{where}: there is no config file '{path}' (paths are relative to the current folder)"
                for path in overlay.configs
                if not Path(path).is_file()
            ]
            problems += [
                f"{where}: '{key}' cannot be overridden, every run sets it itself: remove it"
                for key in overlay.overrides
                if key in (*SEED_KEYS, FOLDER_KEY)
            ]
        if problems:
            raise UserError(f"experiment '{self.name}': " + "\n  ".join(problems))

    def runs(self) -> list[Run]:
        """All runs, seed by seed: the arms of a seed stand side by side in the queue.

        Started in this order they train at the same time and under the same load of the machine, so that
        their wall times can be compared.
        """
        return [self._run(arm, seed) for seed in self.seeds for arm in self.arms]

    def _run(self, arm: str, seed: int) -> Run:
        configs = [*self.base.configs, *self.arms[arm].overlay.configs]
        overrides = {**self.base.overrides, **self.arms[arm].overlay.overrides}
        folder = run_folder(self.output_dir, arm, seed)
        arguments = ["fit"]
        for path in configs:
            arguments += ["--config", path]
        arguments += [f"--{key}={_value_text(value)}" for key, value in overrides.items()]
        arguments += [f"--{key}={seed}" for key in SEED_KEYS]
        arguments.append(f"--{FOLDER_KEY}={folder}")
        return Run(arm, seed, folder, tuple(arguments), {path: _config_hash(path) for path in configs})

    def save(self) -> None:
        """Write ``experiment.json``, from which a report knows which runs there should be."""
        values = asdict(self) | {"output_dir": str(self.output_dir), "seeds": list(self.seeds)}
        write_atomically(self.output_dir / EXPERIMENT_FILE, json.dumps(values, indent=2) + "\n")

    @classmethod
    def load(cls, output_dir: str | Path) -> "Experiment":
        """Read the experiment that a comparison saved.

        The folder may have been moved or copied since: ``output_dir`` is where it is now.

        Raises:
            UserError: the folder is not a comparison's.
        """
        path = Path(output_dir) / EXPERIMENT_FILE
        if not path.is_file():
            raise UserError(
                f"'{output_dir}' holds no comparison (it has no {EXPERIMENT_FILE}): "
                "give the output_dir of a `tst-lightning compare`"
            )
        try:
            values = json.loads(path.read_text())
            values["base"] = Overlay(**values["base"])
            values["arms"] = {
                name: Arm(**arm | {"overlay": Overlay(**arm["overlay"]), "references": tuple(arm["references"])})
                for name, arm in values["arms"].items()
            }
            values |= {"output_dir": Path(output_dir), "seeds": tuple(values["seeds"])}
            return cls(**values)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(
                f"'{path}' is not readable as an experiment ({error!r}): run `tst-lightning compare` again"
            ) from error


def run_folder(output_dir: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm with a seed lives."""
    return Path(output_dir) / "runs" / arm / f"seed_{seed}"


def _name_problems(experiment: Experiment) -> list[str]:
    problems = []
    if len(experiment.arms) < 2:
        problems.append(f"{len(experiment.arms)} arm given: a comparison needs two or more under `arms`")
    for arm in experiment.arms:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*", arm):
            problems.append(
                f"arm name '{arm}' becomes a folder name: use letters, digits and _ . = + -, "
                "with a letter or digit first"
            )
    if len({arm.lower() for arm in experiment.arms}) < len(experiment.arms):
        problems.append(
            "two arm names differ only in upper and lower case and would share a folder "
            "on some file systems: rename one"
        )
    methods = list(dict.fromkeys(arm.method for arm in experiment.arms.values()))
    if experiment.baseline not in methods:
        problems.append(f"baseline '{experiment.baseline}' is not an arm: name one of {', '.join(methods)}")
    return problems


def _seed_problems(seeds: tuple[int, ...]) -> list[str]:
    problems = []
    if not seeds:
        problems.append("no seeds: give one or more, for example `seeds: [1, 2, 3]`")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        problems.append(f"seeds {list(seeds)} must lie between 0 and 2**32 - 1")
    if len(set(seeds)) < len(seeds):
        problems.append(f"seeds {list(seeds)} are not unique: the same seed twice is the same run twice")
    return problems


def _value_text(value: Value) -> str:
    """A value as `fit` reads it: bare where a bare word means the same, JSON otherwise."""
    if isinstance(value, str):
        try:
            if yaml.safe_load(value) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value)


def _config_hash(path: str) -> str:
    """sha256 of what a YAML file says.

    Raises:
        UserError: the file is not YAML.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file '{path}' is not readable as YAML: {error}") from error
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
