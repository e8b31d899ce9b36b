"""What is compared: arms and seeds, and the one `fit` command that each of their runs is.

A run is nothing but a command line that the user could type, so whatever a comparison does can be repeated
by hand from the `command.txt` in the run's folder.
"""

import json
import re
import shlex
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from tst_lightning.comparison.design.arms import Arm, Overlay, Value
from tst_lightning.comparison.design.config_files import config_digest
from tst_lightning.comparison.design.halving import halving_problems
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

PROGRAM = "tst-lightning"
EXPERIMENT_FILE = "experiment.json"
FORMAT_VERSION = 2
"""1 knew neither lengths nor variants."""

Vary = Literal["both", "initialisation", "data_order"]
SEED_KEYS = ("seed_everything", "model.init_seed", "data.seed")
"""Keys of `fit` that a run's seed sets: with all of them equal, two arms start from the same weights and
read the corpus in the same order."""
_VARIED_KEYS: dict[Vary, tuple[str, ...]] = {
    "both": SEED_KEYS,
    "initialisation": ("seed_everything", "model.init_seed"),
    "data_order": ("data.seed",),
}
"""Of these, the ones that follow the run's seed; the others stay at the experiment's first."""

FOLDER_KEY = "trainer.default_root_dir"
"""Key of `fit` that a run's folder sets."""
STEPS_KEY = "trainer.max_steps"
"""Key of `fit` that a run's length sets."""
CHECKPOINT_OPTION = "--ckpt_path"
_ADDED_CALLBACK = "--trainer.callbacks+="
_BRANCH_POINTS = "callbacks.BranchPoints"


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
    method: str = ""
    """The arm's."""

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
    vary: Vary = "both"
    """What a seed changes; the rest stays as with the first seed."""
    halving: float | None = None
    """Share of the methods that go on from one length to the next; all of them by default."""
    evaluation: EvaluationSpec | None = None
    """Downstream tasks on finished runs; none by default."""

    def pairs(self) -> list[tuple[str, str]]:
        """Names of arms that are compared with each other: (arm, reference)."""
        return [(arm.name, reference) for arm in self.arms.values() for reference in arm.references]

    def validate(self) -> None:
        """Check everything that can be known without parsing a `fit` command.

        Raises:
            UserError: naming every problem found.
        """
        problems = [*_name_problems(self), *seed_problems(self.seeds)]
        for where, overlay in {"base": self.base, **{name: arm.overlay for name, arm in self.arms.items()}}.items():
            problems += overlay_problems(where, overlay)
        if self.halving is not None:
            problems += halving_problems(self.arms, self.halving)
        if self.evaluation is not None:
            problems += self.evaluation.problems({name: arm.method for name, arm in self.arms.items()})
        if problems:
            raise UserError(f"experiment '{self.name}': " + "\n  ".join(problems))

    def runs(self) -> list[Run]:
        """All runs, seed by seed: the arms of a seed stand side by side in the queue.

        Started in this order they train at the same time and under the same load of the machine, so that
        their wall times can be compared. The trunk of a branch stands before it.
        """
        config_hash = cache(config_digest)
        runs = []
        for seed in self.seeds:
            for arm in self.arms.values():
                hashes = {path: config_hash(path) for path in [*self.base.configs, *arm.overlay.configs]}
                start = self._starts_from(arm, seed)
                steps = None if arm.steps is None else arm.steps - (arm.branch_step or 0)
                folder = run_folder(self.output_dir, arm.name, seed)
                arguments = self._arguments(arm, seed, start)
                runs.append(Run(arm.name, seed, folder, arguments, hashes, start, steps, arm.method))
        return runs

    def _arguments(self, arm: Arm, seed: int, start: Path | None) -> tuple[str, ...]:
        arguments = ["fit", *overlay_arguments(self.base, arm.overlay)]
        branch_steps = sorted({other.branch_step for other in self.arms.values() if other.trunk == arm.name})
        if branch_steps:
            # An argument of its own, after all others: it must not replace an override of the same key, nor
            # become the callback that `--trainer.callbacks.init_args` means.
            callback = {"class_path": _BRANCH_POINTS, "init_args": {"steps": branch_steps}}
            arguments.append(f"{_ADDED_CALLBACK}{_value_text(callback)}")
        varied = _VARIED_KEYS[self.vary]
        arguments += [f"--{key}={seed if key in varied else self.seeds[0]}" for key in SEED_KEYS]
        arguments.append(f"--{FOLDER_KEY}={run_folder(self.output_dir, arm.name, seed)}")
        if start is not None:
            arguments.append(f"{CHECKPOINT_OPTION}={start}")
        return tuple(arguments)

    def _starts_from(self, arm: Arm, seed: int) -> Path | None:
        if arm.trunk is None:
            return None
        # Where callbacks.BranchPoints puts it; importing that here would load torch.
        return run_folder(self.output_dir, arm.trunk, seed) / "checkpoints" / f"step={arm.branch_step}.ckpt"

    def save(self) -> None:
        """Write ``experiment.json``, from which a report knows which runs there should be.

        Always the whole experiment, also where `--only` runs a part of it: the rest is then listed as not started.
        """
        values = asdict(self) | {"output_dir": str(self.output_dir), "seeds": list(self.seeds)}
        text = json.dumps({"format_version": FORMAT_VERSION} | values, indent=2) + "\n"
        write_atomically(self.output_dir / EXPERIMENT_FILE, text)

    @classmethod
    def load(cls, output_dir: str | Path) -> "Experiment":
        """Read the experiment that a comparison saved.

        The folder may have been moved or copied since: ``output_dir`` is where it is now.

        Raises:
            UserError: the folder is not a comparison's, or one of another version.
        """
        path = Path(output_dir) / EXPERIMENT_FILE
        if not path.is_file():
            raise UserError(
                f"'{output_dir}' holds no comparison (it has no {EXPERIMENT_FILE}): "
                "give the output_dir of a `tst-lightning compare`"
            )
        again = "give its `tst-lightning compare` again, which writes it anew and keeps finished runs"
        try:
            values = json.loads(path.read_text())
            version = values.pop("format_version", 1)
            if version != FORMAT_VERSION:
                raise UserError(f"'{path}' has format {version}, and this version reads {FORMAT_VERSION}: {again}")
            values["base"] = Overlay(**values["base"])
            values["arms"] = {
                name: Arm(**arm | {"overlay": Overlay(**arm["overlay"]), "references": tuple(arm["references"])})
                for name, arm in values["arms"].items()
            }
            if values["evaluation"] is not None:
                values["evaluation"] = EvaluationSpec(**values["evaluation"])
            values |= {"output_dir": Path(output_dir), "seeds": tuple(values["seeds"])}
            experiment = cls(**values)
            if problems := _loaded_problems(experiment):
                raise ValueError("; ".join(problems))
            return experiment
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"'{path}' is not readable as an experiment ({error!r}): {again}") from error


def adds_branch_points(argument: str) -> bool:
    """Whether an argument of a run's command has it keep the checkpoints that others branch off, and does no more."""
    return argument.startswith(f'{_ADDED_CALLBACK}{{"class_path": "{_BRANCH_POINTS}"')


def run_folder(output_dir: Path, arm: str, seed: int | str) -> Path:
    """Where the run of an arm with a seed lives."""
    return Path(output_dir) / "runs" / arm / f"seed_{seed}"


def overlay_arguments(base: Overlay, overlay: Overlay) -> list[str]:
    """What of a `fit` command comes from an overlay on the base, without the command's name."""
    arguments = []
    for path in [*base.configs, *overlay.configs]:
        arguments += ["--config", path]
    overrides = {**base.overrides, **overlay.overrides}
    return arguments + [f"--{key}={_value_text(value)}" for key, value in overrides.items()]


def overlay_problems(where: str, overlay: Overlay) -> list[str]:
    """What is wrong with an overlay; empty if nothing is."""
    problems = [
        f"{where}: there is no config file '{path}' (paths are relative to the current folder)"
        for path in overlay.configs
        if not Path(path).is_file()
    ]
    problems += [
        f"{where}: '{key}' cannot be overridden, every run sets it itself: remove it"
        for key in overlay.overrides
        if key in (*SEED_KEYS, FOLDER_KEY)
    ]
    return problems


def seed_problems(seeds: tuple[int, ...]) -> list[str]:
    """What is wrong with the seeds; empty if nothing is."""
    problems = []
    if not seeds:
        problems.append("no seeds: give one or more, for example `seeds: [1, 2, 3]`")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        problems.append(f"seeds {list(seeds)} must lie between 0 and 2**32 - 1")
    if len(set(seeds)) < len(seeds):
        problems.append(f"seeds {list(seeds)} are not unique: the same seed twice is the same run twice")
    return problems


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
        problems.append("two arm names differ only in case and would share a folder on some file systems: rename one")
    methods = list(dict.fromkeys(arm.method for arm in experiment.arms.values()))
    if experiment.baseline not in methods:
        problems.append(f"baseline '{experiment.baseline}' is not an arm: name one of {', '.join(methods)}")
    return problems


def _loaded_problems(experiment: Experiment) -> list[str]:
    """What a file may say that no comparison has saved: names that are folders elsewhere, or of no arm."""
    named = {name for arm in experiment.arms.values() for name in (arm.name, *arm.references, arm.trunk)}
    arms = [f"'{name}' is not an arm" for name in named - {*experiment.arms, None}]
    seeds = [f"seed {seed!r} is not an integer" for seed in experiment.seeds if not isinstance(seed, int)]
    return [*arms, *seeds, *_name_problems(experiment)]


def _value_text(value: Value) -> str:
    """A value as `fit` reads it: bare where a bare word means the same, JSON otherwise."""
    if isinstance(value, str):
        try:
            if yaml.safe_load(value) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value)
