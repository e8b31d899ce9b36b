"""Every config parses: overlays in the combinations that they are made for, experiments with all their arms."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tst_lightning.comparison.command import compare, plannable_arguments, specified_experiment
from tst_lightning.comparison.design.comparability import require_comparable
from tst_lightning.comparison.design.planned import planned_run, require_final_validation
from tst_lightning.comparison.design.specification import Specification
from tst_lightning.run.lightning_cli import parse_fit

CONFIGS = Path(__file__).parents[1] / "configs"


def files(folder: str) -> list[Path]:
    found = sorted((CONFIGS / folder).glob("*.yaml"))
    assert found, f"configs/{folder} is empty"
    return found


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


FOLDERS = ("model", "optimizer", "data", "trainer", "method", "evaluation")


@pytest.mark.parametrize("overlays", list(itertools.zip_longest(*(files(folder) for folder in FOLDERS))))
def test_fit_overlays_compose(overlays):
    """Each file at least once, the gaps filled with the folder's first."""
    complete = [path or files(folder)[0] for path, folder in zip(overlays, FOLDERS, strict=True)]
    parse_fit([argument for path in complete for argument in ("--config", str(path))])


@pytest.mark.parametrize("path", files("experiments"), ids=name)
def test_experiments_parse_with_all_their_arms(path, monkeypatch):
    """Of arms with the same files and keys only one is parsed: the values of a grid are all of one kind."""
    monkeypatch.chdir(CONFIGS.parent)
    values = read(compare, path)
    assert values.name == path.stem == Path(values.output_dir).name
    specification = Specification(
        values.arms, values.baseline, values.base, values.variants or {},
        tuple(values.lengths or ()), tuple(values.branch or ()),
    )  # fmt: skip
    experiment = specified_experiment(
        values.name, values.output_dir, values.seeds, specification, planned_run, vary=values.vary,
        halving=values.halving, evaluation=values.evaluation and replace(values.evaluation, task_data_dir=None),
    )  # fmt: skip
    for prepare_config in values.prepare or []:
        assert Path(prepare_config).is_file()
    plans, parsed = {}, {}
    for run in experiment.runs()[: len(experiment.arms)]:
        kind = tuple(argument.split("=")[0] for argument in run.arguments)
        if kind not in parsed:
            parsed[kind] = planned_run(plannable_arguments(run))
        plans[run.arm] = with_its_length(parsed[kind], run)
    require_final_validation(plans)
    require_comparable({arm: plan.config for arm, plan in plans.items()}, experiment.pairs())


def read(function, path):
    """The arguments that a command takes from a file."""
    from jsonargparse import auto_parser

    parser = auto_parser(function, as_positional=False, exit_on_error=False)
    return parser.instantiate(parser.parse_args(["--config", str(path)]))


def with_its_length(plan, run):
    """The plan of a run of the same kind, with what this one says of its length and its validation."""
    options = dict(argument[2:].split("=", 1) for argument in run.arguments if "=" in argument)
    steps = int(options.get("trainer.max_steps", plan.max_steps))
    batches = plan.batches // plan.max_steps * steps
    interval = yaml.safe_load(options.get("trainer.val_check_interval", str(plan.validation_batches)))
    if isinstance(interval, float):
        interval = int(interval * batches)
    return replace(plan, max_steps=steps, batches=batches, validation_batches=interval)


@pytest.mark.parametrize("path", files("prepare"), ids=name)
def test_prepare_configs_parse(path, capsys):
    from tst_lightning.data.prepare import prepare

    output_dir = read(prepare, path).output_dir
    assert output_dir == f"data/{path.stem}" or path.stem in ("huggingface", "object_storage")


def test_no_config_is_forgotten():
    tested = {*FOLDERS, "experiments", "prepare", "machine"}  # machine: tests/plan/test_machine.py
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.rglob("*.yaml")} == tested
