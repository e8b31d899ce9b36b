"""Experiments and folders of results that must be refused."""

import json
from pathlib import Path
from typing import Any

from malformed_cases import Case, parametrize, require_refused

ARMS = {"baseline": {}, "tst": {"overrides": {"data.seed": 3}}}
SOUND = {
    "name": "e",
    "output_dir": "results",
    "seeds": [1],
    "baseline": "baseline",
    "base": {"configs": ["{world}/fit.yaml"], "overrides": {"trainer.val_check_interval": 1}},
    "arms": {"baseline": {}, "short": {"overrides": {"model.learning_rate_schedule.warmup_steps": 1}}},
}


def experiment(*words: str, more: tuple[str, ...] = (), **changes: Any) -> Case:
    """A comparison that would run, but for some keys of its file."""
    values = {key: value for key, value in (SOUND | changes).items() if value is not None}
    return Case(("compare", "--config", "e.yaml", *more), words, {"e.yaml": values})


def folder(*words: str, files: dict[str, Any], more: tuple[str, ...] = ()) -> Case:
    """A report of a folder that holds these files."""
    return Case(("report", "results", *more), words, {f"results/{name}": content for name, content in files.items()})


EXPERIMENTS = {
    "unknown baseline": experiment("baseline 'bas'", "name one of baseline, short", baseline="bas"),
    "no seeds": experiment("no seeds", "seeds: ", seeds=[]),
    "seed -1": experiment(r"seeds \[-1\]", "between 0", seeds=[-1]),
    "seed twice": experiment("not unique", seeds=[1, 1]),
    "seed of text": experiment("seeds", "one", seeds=["one"]),
    "seed 1.5": experiment("seeds", "1.5", seeds=[1.5]),
    "one arm": experiment("1 arm", "two or more", arms={"baseline": {}}),
    "no arms": experiment("arms|baseline", arms={}),
    "arms of text": experiment("arms", arms="baseline"),
    "arm with a slash": experiment("'../x'", "letters, digits", arms={"baseline": {}, "../x": {}}),
    "arms alike but for case": experiment("only in case", arms={"baseline": {}, "a": {}, "A": {}}),
    "arm twice": Case(
        ("compare", "--config", "e.yaml"),
        ("'a' a second time", "line 4"),
        {"e.yaml": "name: e\narms:\n  a: {}\n  a: {}\n"},
    ),
    "unknown key of an arm": experiment("overides", arms={"baseline": {}, "a": {"overides": {"data.seed": 1}}}),
    "unknown key": experiment("arm|arms", "did you mean", more=("--arm=x",)),
    "unknown key in the file": experiment("armz", armz={"a": {}, "b": 1}),
    "a missing config": experiment("nowhere.yaml", "current folder", base={"configs": ["nowhere.yaml"]}),
    "an unknown override": experiment("hiden", arms={"baseline": {}, "a": {"overrides": {"model.hiden": 1}}}),
    "an override of the seed": experiment("data.seed", "every run sets it", arms=ARMS),
    "an override of two lines": experiment(
        "max_steps", arms={"baseline": {}, "a": {"overrides": {"trainer.max_steps": "1\n2"}}}
    ),
    "arms of other models": experiment(
        "hidden_size", arms={"baseline": {}, "a": {"overrides": {"model.config.init_args.hidden_size": 32}}}
    ),
    "empty grid": experiment("grid", "'s' is empty", arms={"baseline": {}, "a{s}": {"grid": {"s": []}}}),
    "grid without a place": experiment("'s' is not in", "{s}", arms={"baseline": {}, "a": {"grid": {"s": [1]}}}),
    "place without a grid": experiment("'{s}'", "grid", arms={"baseline": {}, "a{s}": {}}),
    "equal data with nobody": experiment("equal_data_with 'x'", arms={"baseline": {}, "a": {"equal_data_with": "x"}}),
    "compare with nobody": experiment("compare_with 'x'", arms={"baseline": {}, "a": {"compare_with": ["x"]}}),
    "length 0": experiment(r"lengths \[0\]", "at least 1", lengths=[0]),
    "lengths twice": experiment("lengths", "different", lengths=[2, 2]),
    "branch of nobody": experiment("branch", "two or more", branch=["x"]),
    "halving 2": experiment("halving is 2", "between 0 and 1", halving=2.0),
    "halving nan": experiment("halving is nan", "between 0 and 1", halving=float("nan")),
    "vary": experiment("vary", "weights", vary="weights"),
    "no such arm": experiment("nothing is named like 'x'", "baseline", more=("--only", "x")),
    "budget nan": experiment("budget", "nan", more=("--budget_hours=.nan",)),
    "budget -1": experiment("budget", "-1", more=("--budget_hours=-1",)),
    "0 at once": experiment("max_arms_at_once is 0", "1 or more", more=("--max_arms_at_once=0",)),
    "0 threads": experiment("threads_per_arm is 0", "1 or more", more=("--threads_per_arm=0",)),
    "missing preparation": experiment("prepare config 'nowhere.yaml'", prepare=["nowhere.yaml"]),
    "unknown task": experiment("arc_eassy", "did you mean", evaluation={"tasks": ["arc_eassy"]}),
    "no tasks": experiment("evaluation", "no tasks", evaluation={"tasks": []}),
    "evaluation of nobody": experiment("nothing is named like 'x'", evaluation={"tasks": ["heldout"], "arms": ["x"]}),
    "limit 0": experiment("limit is 0", evaluation={"tasks": ["heldout"], "limit": 0}),
    "into a file": Case(
        ("compare", "--config", "e.yaml"),
        ("output_dir 'results' cannot be written",),
        {"e.yaml": SOUND, "results": "x"},
    ),
    "no name": experiment("name", name=None),
    "a list for a name": experiment("name", name=["x"]),
    "no file": Case(("compare", "--config", "nowhere.yaml"), ("nowhere.yaml",)),
    "nothing": Case(("compare",), ("required", "arms")),
}

SAVED = {
    "format_version": 2,
    "name": "e",
    "output_dir": "results",
    "seeds": [1],
    "base": {"configs": [], "overrides": {}},
    "arms": {
        name: {
            "name": name,
            "method": name,
            "overlay": {"configs": [], "overrides": {}},
            "factors": {},
            "variant": "",
            "steps": None,
            "references": references,
            "trunk": None,
            "branch_step": None,
            "length": None,
        }
        for name, references in (("baseline", []), ("tst", ["baseline"]))
    },
    "baseline": "baseline",
    "title": "",
    "description": "",
    "vary": "both",
    "halving": None,
    "evaluation": None,
}
RUNLESS = {"experiment.json": SAVED, "report.json": {}}
RESULTS = {
    "missing": Case(("report", "results"), ("'results' holds no comparison", "tst-lightning compare")),
    "empty": Case(("report", "."), ("holds no comparison", "tst-lightning compare")),
    "no folder": Case(("report",), ("output_dir",)),
    "broken": folder("experiment.json", "compare", files={"experiment.json": "{"}),
    "binary": folder("experiment.json", "compare", files={"experiment.json": b"\xff\x00"}),
    "list": folder("experiment.json", "compare", files={"experiment.json": [SAVED]}),
    "null": folder("experiment.json", "compare", files={"experiment.json": "null"}),
    "version": folder("format 99", files={"experiment.json": SAVED | {"format_version": 99}}),
    "half": folder("experiment.json", "compare", files={"experiment.json": json.dumps(SAVED)[:200]}),
    "without arms": folder("experiment.json", "arms", files={"experiment.json": {"format_version": 2, "base": {}}}),
    "arms of text": folder("experiment.json", files={"experiment.json": SAVED | {"arms": "x"}}),
    "seeds of text": folder("experiment.json|seeds", files={"experiment.json": SAVED | {"seeds": ["../.."]}}),
    "unknown reference": folder(
        "experiment.json|'x'",
        files={
            "experiment.json": SAVED
            | {"arms": {"baseline": SAVED["arms"]["baseline"], "tst": SAVED["arms"]["tst"] | {"references": ["x"]}}}
        },
    ),
    "unknown trunk": folder(
        "experiment.json|'x'",
        files={
            "experiment.json": SAVED
            | {"arms": {"baseline": SAVED["arms"]["baseline"], "tst": SAVED["arms"]["tst"] | {"trunk": "x"}}}
        },
    ),
    "arm elsewhere": folder(
        r"'\.\./x'|experiment.json",
        files={
            "experiment.json": SAVED
            | {"arms": {"baseline": SAVED["arms"]["baseline"], "../x": SAVED["arms"]["tst"] | {"name": "../x"}}}
        },
    ),
    "unknown baseline": folder("baseline|experiment.json", files={"experiment.json": SAVED | {"baseline": "x"}}),
    "runs are gone": folder("no runs any more", "bring the runs back", files=RUNLESS),
    "against another version": folder("format_version None", "rebuild", files=RUNLESS, more=("--against", "nowhere")),
    "against nothing": Case(
        ("report", "results", "--against", "nowhere"), ("results", "no comparison|no report|report.json")
    ),
    "against a broken report": Case(
        ("report", "results", "--against", "other"),
        ("report.json",),
        {
            "results/experiment.json": SAVED,
            "results/report.json": "{",
            "other/experiment.json": SAVED,
            "other/report.json": "{",
        },
    ),
    "against and curves": folder("paper_curves", "against", files=RUNLESS, more=("--against=x", "--paper_curves=x")),
    "no curves": folder("nowhere", files={"experiment.json": SAVED}, more=("--paper_curves", "nowhere")),
    "broken curves": folder(
        "loss_grid_a.csv",
        files={"experiment.json": SAVED, "curves/loss_grid_a.csv": "a,b\n1,2\n"},
        more=("--paper_curves", "results/curves"),
    ),
    "curves of text": folder(
        "loss_grid_a.csv",
        files={"experiment.json": SAVED, "curves/loss_grid_a.csv": "step_ratio,bag_size,final_loss\nx,y,z\n"},
        more=("--paper_curves", "results/curves"),
    ),
    "binary curves": folder(
        "loss_grid_a.csv",
        files={"experiment.json": SAVED, "curves/loss_grid_a.csv": b"\xff\x00"},
        more=("--paper_curves", "results/curves"),
    ),
}
COMMANDS = {
    "unknown": Case(("fti",), ("unknown command 'fti'", "did you mean fit", "choose from")),
    "far from any": Case(("xyz",), ("unknown command 'xyz'", "choose from fit")),
    "empty": Case(("",), ("unknown command ''", "choose from")),
    "an option": Case(("--verbose",), ("--verbose", "choose from")),
    "of two words": Case(("mutual", "information"), ("unknown command 'mutual'", "mutual-information")),
    "control characters": Case(("fit\x1b[31m",), ("unknown command",)),
}


@parametrize(EXPERIMENTS, fast_every=3)
def test_experiments(case, here, world, capsys):
    require_refused(case, here, world, capsys)


@parametrize(RESULTS | COMMANDS)
def test_results_and_commands(case, here, world, capsys):
    require_refused(case, here, world, capsys)


def test_the_experiment_is_sound_but_for_what_is_changed(here: Path, world: Path):
    """Each case is refused for its own reason: nothing is wrong with what they share."""
    from malformed_cases import write

    from tst_lightning.comparison.design.experiment import Experiment

    write(folder(files={"experiment.json": SAVED}), here, world)
    assert list(Experiment.load(here / "results").arms) == ["baseline", "tst"]
