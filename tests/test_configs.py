"""Every config parses: overlays in the combinations that they are made for, experiments with all their arms."""

import itertools
from pathlib import Path

import pytest
import yaml

from tst_lightning.comparison.arms import Overlay, plain_arms
from tst_lightning.comparison.experiment import Experiment
from tst_lightning.lightning_cli import parse_fit

CONFIGS = Path(__file__).parents[1] / "configs"


def files(folder: str) -> list[Path]:
    found = sorted((CONFIGS / folder).glob("*.yaml"))
    assert found, f"configs/{folder} is empty"
    return found


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize(
    "overlays",
    itertools.zip_longest(files("model"), files("data"), files("trainer"), files("method"), files("evaluation")),
)
def test_fit_overlays_compose(overlays):
    """Each file at least once, the gaps filled with the folder's first."""
    folders = ("model", "data", "trainer", "method", "evaluation")
    complete = [path or files(folder)[0] for path, folder in zip(overlays, folders, strict=True)]
    parse_fit([argument for path in complete for argument in ("--config", str(path))])


@pytest.mark.parametrize("path", files("experiments"), ids=name)
def test_experiments_parse_with_all_their_arms(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    values = yaml.safe_load(path.read_text())
    overlays = {arm: Overlay(**options) for arm, options in values["arms"].items()}
    experiment = Experiment(
        values["name"], Path(values["output_dir"]), tuple(values["seeds"]), Overlay(**values["base"]),
        plain_arms(overlays, values["baseline"]), values["baseline"],
    )  # fmt: skip
    experiment.validate()
    assert values["name"] == path.stem == experiment.output_dir.name
    for prepare in values["prepare"]:
        assert Path(prepare).is_file()
    for run in experiment.runs():
        if run.seed == values["seeds"][0]:
            parse_fit(run.arguments[1:])


@pytest.mark.parametrize("path", files("prepare"), ids=name)
def test_prepare_configs_parse(path, capsys):
    from jsonargparse import auto_parser

    from tst_lightning.data.prepare import prepare

    parser = auto_parser(prepare, as_positional=False, exit_on_error=False)
    output_dir = parser.parse_args(["--config", str(path)]).output_dir
    assert output_dir == f"data/{path.stem}" or path.stem in ("huggingface", "object_storage")


def test_no_config_is_forgotten():
    tested = {"model", "data", "trainer", "method", "evaluation", "experiments", "prepare"}
    assert {path.relative_to(CONFIGS).parts[0] for path in CONFIGS.rglob("*.yaml")} == tested
