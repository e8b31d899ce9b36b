import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import (
    FLOPS_PER_POSITION,
    POSITIONS_PER_STEP,
    make_experiment,
    make_lengths_experiment,
    write_final,
    write_run,
    write_typical_runs,
)
from test_document import Page

from tst_lightning.comparison.command import report
from tst_lightning.comparison.design.experiment import run_folder
from tst_lightning.comparison.reporting.report import write_report
from tst_lightning.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE_PIXELS = 390


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two arms and three seeds."""
    folder = tmp_path_factory.mktemp("reported")
    experiment = replace(make_experiment(folder), title="Loss & <script>alert(1)</script>")
    experiment.save()
    write_typical_runs(experiment)
    report(str(folder))
    return folder


@pytest.fixture(scope="module")
def reported_lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three methods at three lengths in two variants, one method behind, with branches."""
    folder = tmp_path_factory.mktemp("lengths")
    methods = ("baseline", "tst_s4_r0.3", "tst_s8_r0.3")
    experiment = make_lengths_experiment(folder, (100, 200, 400), methods, branch=("baseline",), variants=("a", "b"))
    for name, arm in experiment.arms.items():
        for seed in experiment.seeds:
            loss = 2 - 0.2 * math.log2(arm.steps / 100) + 0.01 * seed
            gain = methods.index(arm.method) * (0.04 * math.log2(arm.steps / 100) - 0.03 + 0.001 * seed)
            write_final(experiment, name, seed, loss - gain)
    report(str(folder))
    return folder


def table_row(text: str, *cells: str) -> list[str]:
    """The cells of the first row of a Markdown table that begins with these."""
    start = "| " + " | ".join(cells) + " |"
    return next(line for line in text.splitlines() if line.startswith(start)).strip("| ").split(" | ")


def test_json_holds_everything(reported: Path) -> None:
    values = json.loads((reported / "report.json").read_text())
    run = values["runs"][1]
    assert (run["arm"], run["seed"], run["folder"]) == ("tst", 1, "runs/tst/seed_1")
    assert run["command"].startswith("tst-lightning fit")
    assert run["config"].startswith("trainer:")
    assert run["finished"]["commit"]["hash"] == "a" * 40
    assert run["curve"]["steps"][-1] == 4000
    finals = {
        arm: [run["curve"]["val_loss"][-1] for run in values["runs"] if run["arm"] == arm]
        for arm in ("baseline", "tst")
    }
    mean = sum(tst - base for tst, base in zip(finals["tst"], finals["baseline"], strict=True)) / 3
    assert values["pairs"][0]["difference"]["mean"] == pytest.approx(mean)
    assert values["arms"]["tst"]["switch_step"] == 1200
    assert values["arms"]["tst"]["costs"]["data_tokens"] == 4000 * 4096 + 1200 * 4096 * 3
    assert values["arms"]["baseline"]["scores"][0]["items"] == 400


def test_markdown_says_the_numbers(reported: Path) -> None:
    text = (reported / "report.md").read_text()
    values = json.loads((reported / "report.json").read_text())
    links = re.findall(r"!\[\w+\]\((figures/\w+\.png)\)", text)
    assert links == [f"figures/{name}.png" for name in
                     ("differences", "loss_flops", "loss_time", "downstream", "data_tokens")]  # fmt: skip
    for link in links:
        assert (reported / link).read_bytes().startswith(b"\x89PNG")
    difference = values["pairs"][0]["difference"]
    row = table_row(text, "tst", "baseline", "equal FLOPs")
    assert row[3:6] == ["3", f"{difference['mean']:+.4f}", f"{difference['low']:+.4f} to {difference['high']:+.4f}"]
    final = values["arms"]["tst"]["final"]
    seeds = [f"{values['arms']['tst']['final_by_seed'][str(seed)]:.4f}" for seed in (1, 2, 3)]
    assert table_row(text, "tst", "3", f"{final['mean']:.4f}", f"{final['sd']:.4f}")[5:8] == seeds
    assert "25%" in text
    assert "not finished models" in text
    assert "All 6 runs have finished." in text
    assert "<script>" not in text.replace("\\<script\\>", "")


def test_html_is_whole_self_contained_and_escaped(reported: Path, reported_lengths: Path) -> None:
    page = Page((reported / "report.html").read_text())
    page.require_self_contained()
    assert "Loss & <script>alert(1)</script>" in page.text
    assert len(page.sources) == page.tags.count("img") == 5
    page = Page((reported_lengths / "report.html").read_text())
    page.require_self_contained()
    assert page.tags.count("details") >= 2


def test_an_arm_has_the_same_colour_in_every_table(reported_lengths: Path) -> None:
    text = (reported_lengths / "report.html").read_text()
    marks = re.findall(r'border-color:(#\w+)"></span>([^<]+)<', text)
    colours = {}
    for colour, name in marks:
        method = re.search(r"baseline|tst_s4_r0.3|tst_s8_r0.3", name).group()
        colours.setdefault(method, set()).add(colour)
    assert len(marks) > 40
    assert colours == {"baseline": {"#222222"}, "tst_s4_r0.3": {"#0072B2"}, "tst_s8_r0.3": {"#D55E00"}}


def test_lengths_have_frontiers_speed_ups_and_a_crossing(reported_lengths: Path) -> None:
    text = (reported_lengths / "report.md").read_text()
    links = re.findall(r"!\[\w+\]\(figures/(\w+)\.png\)", text)
    assert links == ["differences", "loss_flops", "loss_time", "run_length", "frontier", "data_tokens"]
    assert "branches of one trunk" in text
    assert "one run per length" in text
    assert "overtakes baseline at a run length of" in text
    values = json.loads((reported_lengths / "report.json").read_text())
    found = next(found for found in values["speed_ups"] if found["ratio"] is not None)
    assert f"{found['ratio']:.2f} times" in text
    assert "<details><summary>The commands of 54 runs</summary>" in text


def test_runs_that_are_not_there_and_runs_that_have_diverged(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3), ("baseline", "a", "b"))
    for seed, loss in ((1, 1.5), (2, 1.6), (3, 1.7)):
        write_run(run_folder(tmp_path, "baseline", seed), {50: 2.0, 100: loss}, 100)
    write_run(run_folder(tmp_path, "a", 1), {50: 2.0, 100: 1.4}, 100)
    write_run(run_folder(tmp_path, "a", 2), {50: 2.0, 100: math.nan}, 100)
    write_run(run_folder(tmp_path, "a", 3), {50: 2.0}, 100, finished=False)
    write_report(experiment.output_dir)
    text = (tmp_path / "report.md").read_text()
    assert "Of 9 runs: 4 finished, 1 diverged, 1 not finished, 3 not started." in text
    section = text[text.index("## Runs") :]
    assert table_row(section, "a") == ["a", "1", "2", "3 (step 50 of 100)", "-"]
    assert table_row(section, "b") == ["b", "-", "-", "-", "1, 2, 3"]
    assert table_row(text, "a", "1")[5:8] == ["1.4000", "diverged", "-"]
    assert json.loads((tmp_path / "report.json").read_text())["arms"]["a"]["final"]["mean"] == pytest.approx(1.4)


def test_losses_on_other_text_are_not_compared(tmp_path: Path) -> None:
    make_experiment(tmp_path, (1, 2), ("baseline", "mixed"))
    for arm, weights in {"baseline": (0.7, 0.3), "mixed": (0.5, 0.5)}.items():
        for seed in (1, 2):
            data = {"data_dir": dict(zip(("data/a", "data/b"), weights, strict=True)), "validation_windows": 64}
            write_run(run_folder(tmp_path, arm, seed), {50: 2.0, 100: 1.5 - 0.1 * seed}, 100, data=data)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert table_row(text, "mixed", "baseline")[4:] == ["not compared", "-", "-", "-"]
    assert "![differences]" not in text


def test_report_of_nothing_and_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = make_experiment(tmp_path)
    report(str(tmp_path))
    assert "No verdict on tst" in capsys.readouterr().out
    assert "![" not in (tmp_path / "report.md").read_text()
    write_run(run_folder(tmp_path, "baseline", 1), {50: 2.0}, 100, finished=False)
    write_report(experiment.output_dir)
    assert "not finished" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "figures" / "loss_flops.png").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_report_of_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no comparison"):
        report(str(tmp_path))


def test_published_curves_are_read_before_anything_is_written(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    with pytest.raises(UserError, match="holds no loss_grid"):
        report(str(tmp_path), paper_curves=str(tmp_path))
    assert not (tmp_path / "report.md").exists()
    with pytest.raises(UserError, match="leave it out beside --against"):
        report(str(tmp_path), against=str(tmp_path), paper_curves=str(tmp_path))
    (tmp_path / "loss_grid_a.csv").write_text("step_ratio,bag_size,final_loss\n0,1,3.0\n0.3,4,2.9\n")
    report(str(tmp_path), paper_curves=str(tmp_path))
    assert f"--paper_curves {tmp_path}" in (tmp_path / "report.md").read_text()


def test_terminal_table_is_aligned(reported: Path) -> None:
    shown = write_report(reported)
    table = [line for line in shown.splitlines() if line.startswith(("arm", "---", "baseline", "tst  "))]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert "3/3" in table[2]
    assert "13 min 20 s" in table[2]
    assert str(reported / "report.html") in shown


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look with")
def test_a_browser_shows_the_page_on_a_phone_without_errors(reported_lengths: Path, tmp_path: Path) -> None:
    """A frame as wide as a phone: its page is no wider, and the console stays empty."""
    page = (reported_lengths / "report.html").resolve().as_uri()
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe width="{PHONE_PIXELS}" height="800" style="border:0" src="{page}" '
        'onload="const root = this.contentDocument.documentElement; document.body.title = '
        '[root.scrollWidth, root.clientWidth, this.contentDocument.images.length].join()"></iframe>'
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
         "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    width, shown, images = map(int, re.search(r'title="(\d+),(\d+),(\d+)"', done.stdout).groups())
    assert width <= shown <= PHONE_PIXELS
    assert images >= 6
    assert "CONSOLE" not in done.stderr


def test_a_report_whose_runs_are_gone_is_not_overwritten(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,))
    for arm in experiment.arms:
        write_run(run_folder(tmp_path, arm, 1), {50: 2.0, 100: 1.5}, 100)
    write_report(tmp_path)
    written = (tmp_path / "report.json").read_bytes()
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(UserError, match="no runs any more"):
        write_report(tmp_path)
    assert (tmp_path / "report.json").read_bytes() == written


def test_superposed_flops_are_unknown_before_the_switch(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1,), ("baseline", "begun", "whole"))
    write_run(run_folder(tmp_path, "baseline", 1), {50: 2.0, 100: 1.5}, 100)
    write_run(run_folder(tmp_path, "begun", 1), {10: 4.0}, 100, bag_size=4, switch=30, finished=False)
    write_run(run_folder(tmp_path, "whole", 1), {50: 2.0, 100: 1.4}, 100, bag_size=4, switch=30)
    write_report(experiment.output_dir)
    text = (tmp_path / "report.md").read_text()
    costs = text[text.index("## What it cost") :]
    flops = 30 * POSITIONS_PER_STEP * FLOPS_PER_POSITION
    assert [table_row(costs, arm)[4] for arm in experiment.arms] == ["0", "-", f"{flops:.4g}"]
    assert "not the evaluation of finished runs, which is a step of its own" in costs


def test_terminal_page_and_json_say_the_same_first(reported_lengths: Path) -> None:
    shown = write_report(reported_lengths)
    verdict = json.loads((reported_lengths / "report.json").read_text())["verdict"]
    assert " ".join(shown.partition("\n\n")[0].splitlines()) == verdict
    page = (reported_lengths / "report.html").read_text()
    head = re.search(r'<div class="verdict"><p>(.*?)</p></div>', page).group(1)
    assert html.unescape(head.replace("</p><p>", " ")) == verdict
    assert verdict.startswith("Comparisons of validation loss: 12")
