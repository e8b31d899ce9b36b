"""The documentation: it builds without a warning, tells all there is, and its commands and code work as they stand."""

import importlib.util
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import walkthrough
import yaml
from walkthrough import ROOT, SMALLER, code, commands, files, run_command, section, workplace  # noqa: F401 - a fixture

import callbacks
from tst_lightning import cli

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
TUTORIAL = PAGES["tutorial.md"]


def hook(name):
    """One of the hooks of the build, as a module."""
    specification = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# The site ---------------------------------------------------------------------------------------------------


def build(project: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def copy_of_the_documentation(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    for name in ("configs", "results"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser fetches with a page, and ids of its elements."""

    def __init__(self):
        super().__init__()
        self.addresses, self.ids = [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(attributes["href"])
        self.addresses += [attributes[name] for name in ("src", "srcset", "data") if attributes.get(name)]


def parsed(page: Path) -> Loaded:
    loaded = Loaded()
    loaded.feed(page.read_text())
    return loaded


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site):
    for name in PAGES:
        page = parsed(site / name.replace(".md", ".html"))
        assert [address for address in page.addresses if "//" in address] == []
        assert len(page.addresses) > 3
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert styles
    assert not any(re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style) for style in styles)
    assert not (site / "hooks").exists()


def test_the_reference_has_every_parameter_of_what_it_names(site):
    ids = parsed(site / "reference.html").ids
    reference = hook("reference")
    subjects = [
        subject for name in reference.MARKER.findall(PAGES["reference.md"]) for subject in reference.subjects(name)
    ]
    names = {subject.__name__ for subject in subjects}
    assert {"CausalLMModule", "TokenDataModule", "WarmupStableDecay", *callbacks.__all__} <= names
    assert {command.replace("-", "_") for command in cli.COMMANDS} <= names
    missing = [
        f"{subject.__name__}-{parameter}"
        for subject in subjects
        for parameter in inspect.signature(subject).parameters
        if f"{subject.__name__}-{parameter}" not in ids
    ]
    assert missing == []


def test_what_is_wrong_fails_the_build(tmp_path):
    project = copy_of_the_documentation(tmp_path / "project")
    page = project / "docs" / "methods" / "tst.md"
    page.write_text(page.read_text() + "\n[gone](../gone.md) [nowhere](../faq.md#nowhere)\n")
    (project / "docs" / "left_out.md").write_text("# In no menu\n")
    undocumented = "<!-- reference: undocumented.Thing -->"
    (project / "undocumented.py").write_text('class Thing:\n    """A thing."""\n\n    def __init__(self, size): ...\n')
    (project / "docs" / "reference.md").write_text(f"# Reference\n\n{undocumented}\n")
    done = build(project, tmp_path / "site")
    assert done.returncode != 0
    for complaint in ("gone.md", "#nowhere", "left_out.md", "Thing: the parameter 'size' has no documentation"):
        assert complaint in done.stderr


# What it has to tell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_is_told_of(name):
    assert any(name in text for page, text in PAGES.items() if page != "reference.md")


@pytest.mark.parametrize("folder", ["method", "optimizer"])
def test_every_method_is_shown_on_a_page(folder):
    names = [path.name for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))]
    assert names
    pages = "".join(PAGES.values())
    assert [name for name in names if f'--8<-- "configs/{folder}/{name}"' not in pages] == []


def test_the_arms_of_the_methods_experiment_have_their_places():
    """Each has one where its result will stand, and there is none for another arm."""
    measured = hook("measured")
    places = {
        arm
        for text in PAGES.values()
        for found in measured.MARKER.finditer(text)
        if found["comparison"] in (None, measured.COMPARISON)
        for arm in measured.arms_of(found)
    }
    experiment = yaml.safe_load((ROOT / "configs" / "experiments" / f"{measured.COMPARISON}.yaml").read_text())
    arms = {
        name.format(**dict(zip(grid, values, strict=True)))
        for name, arm in experiment["arms"].items()
        for grid in [arm.get("grid", {})]
        for values in itertools.product(*grid.values())
    }
    assert arms - {experiment["baseline"]} == places


def test_files_of_the_repository_that_pages_name_exist():
    pattern = r"`((?:configs|tst_lightning|callbacks|tests|benchmarks)/[\w./]+\.\w+)`"
    named = {path for text in PAGES.values() for path in re.findall(pattern, text)}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_arms_that_pages_show_parse():
    from tst_lightning.run.lightning_cli import parse_fit

    blocks = [
        yaml.safe_load(block) for text in PAGES.values() for block in re.findall(r"```yaml\n(.*?)```", text, re.S)
    ]
    arms = {name: arm for block in blocks if isinstance(block, dict) for name, arm in block.get("arms", {}).items()}
    assert len(arms) >= 2
    for arm in arms.values():
        configs = ["configs/model/llama_1m.yaml", "configs/data/demo.yaml", "configs/trainer/cpu.yaml", *arm["configs"]]
        overrides = [f"--{key}={value}" for key, value in arm["overrides"].items()]
        parse_fit([*(f"--config={ROOT / path}" for path in configs), *overrides])


# Measured results -------------------------------------------------------------------------------------------


def pair(**changes):
    difference = {"n": 3, "mean": -0.02, "low": -0.03, "high": -0.01, "p_holm": 0.0123}
    score = {"task": "arc_easy", "metric": "acc", "higher_is_better": True, "in_group": False, "is_shown": True}
    usual = {"arm": "tst", "reference": "baseline", "budget": "equal FLOPs", "not_compared": "", "is_shown": True}
    scores = [score | {"over_seeds": {"mean": 0.05}}, score | {"task": "piqa", "is_shown": False}]
    return usual | {"difference": difference, "scores": scores} | changes


def test_measured_results_come_from_the_report(tmp_path):
    measured = hook("measured")
    (tmp_path / "results" / "methods_books").mkdir(parents=True)
    one_seed = {"n": 1, "mean": 0.5, "low": None, "high": None, "p_holm": None}
    report = {
        "created": "2026-01-02T03:04:05+00:00",
        "experiment": {"title": "All methods", "description": "Small."},
        "pairs": [pair(), pair(arm="mtp", difference=one_seed, is_shown=False, scores=[])],
    }
    (tmp_path / "results" / "methods_books" / "report.json").write_text(json.dumps(report))
    config = {"config_file_path": str(tmp_path / "mkdocs.yml")}
    text = measured.on_page_markdown("# A\n\n<!-- measured: tst, mtp, other -->\n\nB", config)
    assert (
        "| `tst` | `baseline`, equal FLOPs | -0.020 ± 0.010 (3 seeds) | lower loss, shown (p = 0.012); "
        "arc\\_easy +0.050; no difference shown on piqa |\n"
        "| `mtp` | `baseline`, equal FLOPs | +0.500 (1 seed) | one seed shows nothing |"
    ) in text
    assert "Not measured yet in the comparison `methods_books`: `other`." in text
    assert text.startswith("# A\n\n| Arm |")
    elsewhere = measured.on_page_markdown("<!-- measured: elsewhere: a, b -->", config)
    assert elsewhere == "Not measured yet in the comparison `elsewhere`: `a`, `b`."


def test_a_difference_that_is_not_shown_is_not_called_one():
    measured = hook("measured")
    assert measured.verdict(pair(is_shown=False)) == "a difference is not shown (p = 0.012)"
    worse = pair()
    worse["difference"] = worse["difference"] | {"mean": 0.02}
    assert measured.verdict(worse) == "higher loss, shown (p = 0.012)"
    assert (
        measured.row(pair(difference=None, not_compared="data: a against b"))[-1] == "not compared: data: a against b"
    )


# Commands and code ------------------------------------------------------------------------------------------

SMALLER_HERE = SMALLER | {"prepare": ["--tokenizer.vocab_size=300"]}
RUN_ELSEWHERE = ["make .venv/.ready", "source .venv/bin/activate"]


def write_files():
    for name, content in files(TUTORIAL).items():
        Path(name).write_text(content)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_the_tutorial_works(capsys):
    compare = section(TUTORIAL, "Compare")
    before = commands(TUTORIAL.replace(compare, ""))
    assert [shlex.join(words) for words in before[:2]] == RUN_ELSEWHERE
    write_files()
    for words in before[2:]:
        run_command(words, SMALLER_HERE)
    printed = capsys.readouterr().out
    assert "'data/mine' is intact" in printed
    assert "heldout_last_word" in printed
    (block,) = code(TUTORIAL)
    exec(compile(block, "tutorial.md", "exec"), {})
    assert capsys.readouterr().out.startswith("The river")


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_the_tutorials_comparison_works(capsys):
    write_files()
    prepare, compare = commands(TUTORIAL)[2], commands(section(TUTORIAL, "Compare"))
    run_command(prepare, SMALLER_HERE)
    experiment = Path("my_experiment.yaml")
    small = yaml.safe_load(experiment.read_text())
    small["base"]["overrides"] |= {"trainer.max_steps": 4, "trainer.val_check_interval": 2, "data.batch_size": 2}
    small["evaluation"]["limit"] = 4
    del small["arms"]["tst_s2"]
    experiment.write_text(yaml.safe_dump(small | {"seeds": [1]}))
    for words in compare:
        run_command(words)
    assert "report.html" in capsys.readouterr().out
    assert Path("results/mine/report.html").is_file()


def test_the_tutorials_experiment_is_an_experiment(tmp_path):
    """The slow test trains it; this one parses it."""
    from jsonargparse import auto_parser

    from tst_lightning.comparison.command import compare

    path = tmp_path / "my_experiment.yaml"
    path.write_text(files(TUTORIAL)["my_experiment.yaml"])
    parser = auto_parser(compare, as_positional=False, exit_on_error=False)
    values = parser.instantiate(parser.parse_args(["--config", str(path)]))
    assert set(values.arms) == {"baseline", "tst", "tst_s2"}


@pytest.mark.usefixtures("workplace")
def test_the_code_for_ones_own_module_and_data_works():
    readme = (ROOT / "README.md").read_text()
    run_command(walkthrough.commands(section(readme, "Train on your own text"))[1])
    own_module, own_data = code(PAGES["callback.md"])
    assert [own_module] == code(readme)
    namespace = {"__name__": "callback"}
    exec(compile(own_module, "callback.md", "exec"), namespace)
    shapes = []

    class Watched(namespace["MyModule"]):
        def training_step(self, batch, batch_idx):
            shapes.append(tuple(batch["tokens"].shape))
            return super().training_step(batch, batch_idx)

    exec(compile(own_data, "callback.md", "exec"), namespace | {"MyModule": Watched})
    assert shapes == [(8, 65, 4)] + [(8, 65, 1)] * 3  # step_ratio 0.3 of 4 steps
