import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_runs import make_experiment, write_run, write_typical_runs

from tst_lightning.comparison.collect import collect
from tst_lightning.comparison.command import report
from tst_lightning.comparison.document import Code, Paragraph, Table, to_html, to_markdown
from tst_lightning.comparison.experiment import Experiment, run_folder
from tst_lightning.comparison.report import write_report
from tst_lightning.comparison.sentences import cautions, crossing_sentence, verdict
from tst_lightning.comparison.summary import summarize_arms
from tst_lightning.errors import UserError


def write_ends(experiment: Experiment, **finals: tuple[float, ...]) -> None:
    """Short finished runs of each arm with these final losses, seed by seed."""
    for arm, losses in finals.items():
        for seed, loss in zip(experiment.seeds, losses, strict=False):
            write_run(run_folder(experiment.output_dir, arm, seed), {50: loss + 1, 100: loss}, 100)


def verdict_of(experiment: Experiment) -> str:
    return verdict(summarize_arms(experiment, collect(experiment)), experiment.baseline)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two arms and three seeds."""
    folder = tmp_path_factory.mktemp("reported")
    experiment = replace(make_experiment(folder), title="Loss & <script>alert(1)</script>")
    experiment.save()
    write_typical_runs(experiment)
    report(str(folder))
    return folder


def test_verdicts(tmp_path: Path) -> None:
    one = make_experiment(tmp_path / "one", (1,))
    write_ends(one, baseline=(1.5,), tst=(1.53,))
    assert verdict_of(one) == (
        "One seed: no statement about significance is possible; tst ended 0.030 nats per token behind "
        "baseline (validation loss 1.5300 against 1.5000)."
    )
    ahead = make_experiment(tmp_path / "ahead", (1, 2, 3))
    write_ends(ahead, baseline=(1.5, 1.6, 1.7), tst=(1.41, 1.5, 1.61))
    assert verdict_of(ahead).startswith("tst ended ahead of baseline by 0.093 nats per token")
    assert "n = 3 seeds, paired" in verdict_of(ahead)
    behind = make_experiment(tmp_path / "behind", (1, 2))
    write_ends(behind, baseline=(1.5, 1.6), tst=(1.6, 1.701))
    assert verdict_of(behind).startswith("tst ended behind baseline by")
    unclear = make_experiment(tmp_path / "unclear", (1, 2))
    write_ends(unclear, baseline=(1.5, 1.6), tst=(1.4, 1.62))
    assert "is not shown: on average tst ended 0.040 nats per token ahead of baseline" in verdict_of(unclear)


def test_no_verdict_without_pairs_or_with_a_diverged_run(tmp_path: Path) -> None:
    unpaired = make_experiment(tmp_path / "unpaired", (1, 2))
    write_ends(unpaired, baseline=(1.5,))
    write_run(run_folder(unpaired.output_dir, "tst", 2), {100: 1.2}, 100)
    assert verdict_of(unpaired).startswith("No verdict on tst")
    diverged = make_experiment(tmp_path / "diverged", (1, 2))
    write_ends(diverged, baseline=(1.5, 1.6), tst=(math.nan, 1.5))
    assert "has diverged" in verdict_of(diverged)
    write_report(diverged.output_dir)
    assert json.loads((diverged.output_dir / "report.json").read_text())["arms"]["tst"]["final"]["mean"] is None


def test_losses_on_other_text_are_not_compared(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2), ("baseline", "mixed", "same"))
    weights = {"baseline": (0.7, 0.3), "mixed": (0.5, 0.5), "same": (70, 30)}
    for arm, (first, second) in weights.items():
        for seed in experiment.seeds:
            data = {"data_dir": {"data/a": first, "data/b": second}, "sequence_length": 512, "validation_windows": 64}
            folder = run_folder(tmp_path, arm, seed)
            losses = {50: 2.0, 100: 1.5 - 0.1 * seed * len(arm)}
            write_run(folder, losses, 100, accuracy=0.3 + 0.01 * seed, data=data)
    shown = write_report(tmp_path)
    reason = "mixed validates on other text than baseline (data_dir: {data/a: 0.5, data/b: 0.5} against "
    reason += "{data/a: 0.7, data/b: 0.3}): its loss is not compared."
    assert shown.startswith(f"{reason} A difference between same and baseline is not shown")
    arms = summarize_arms(experiment, collect(experiment))
    assert crossing_sentence(arms["mixed"], "baseline") == reason
    values = json.loads((tmp_path / "report.json").read_text())["arms"]
    assert [values["mixed"][key] for key in ("difference", "crosses_at_step", "crosses_at_flops")] == [None] * 3
    assert values["mixed"]["final"]["mean"] == pytest.approx(0.75)
    assert values["mixed"]["scores"][0]["difference"]["n"] == values["same"]["difference"]["n"] == 2
    assert values["baseline"]["other_validation"] == values["same"]["other_validation"] == ""
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| mixed |"))
    assert row.split(" | ")[1:9] == ["2", "0.7500", "0.3536", "1.0000", "0.5000", "-", "-", "-"]


def test_cautions_name_what_a_reader_must_know(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, (1, 2, 3))
    write_ends(experiment, baseline=(1.5, 1.6))
    write_run(run_folder(tmp_path, "tst", 1), {100: 1.5, 180: 1.2}, 200)
    write_run(run_folder(tmp_path, "tst", 2), {100: 1.5}, 200, finished=False)
    notes = " ".join(cautions(experiment, summarize_arms(experiment, collect(experiment))))
    assert "not started and are left out of all tables: baseline seed 3, tst seed 3" in notes
    assert "not finished and are left out of all tables: tst seed 2" in notes
    assert "tst spent 1.8 times the FLOPs of baseline" in notes
    assert "last validation of tst seed 1 was at step 180 of 200" in notes


def test_crossing_sentences(reported: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(reported)
    arms = summarize_arms(experiment, collect(experiment))
    assert re.fullmatch(
        r"tst passes below baseline for good at step \d,\d{3}, \d\.\d+e\+13 FLOPs\.",
        crossing_sentence(arms["tst"], "baseline"),
    )
    behind = make_experiment(tmp_path, (1,))
    write_ends(behind, baseline=(1.5,), tst=(1.53,))
    arms = summarize_arms(behind, collect(behind))
    assert crossing_sentence(arms["tst"], "baseline") == "tst never passes below baseline for good."


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
    assert values["arms"]["tst"]["difference"]["mean"] == pytest.approx(mean)
    assert values["arms"]["tst"]["switch_step"] == 1200
    assert values["arms"]["tst"]["costs"]["data_tokens"] == 4000 * 4096 + 1200 * 4096 * 3
    assert values["arms"]["baseline"]["scores"][0]["items"] == 400


def test_markdown_and_figures(reported: Path) -> None:
    text = (reported / "report.md").read_text()
    links = re.findall(r"!\[\w+\]\((figures/\w+\.png)\)", text)
    assert len(links) == 5
    for link in links:
        assert (reported / link).read_bytes().startswith(b"\x89PNG")
    assert "25%" in text
    assert "not finished models" in text
    assert "high by design" in text
    assert "<script>" not in text.replace("\\<script\\>", "")
    rows = [line for line in text.splitlines() if line.startswith("| tst |")]
    assert [row.count("|") for row in rows] == [12, 8]


class Page(HTMLParser):
    """Collects tags, checks that they nest, and keeps every link to something else."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_whole_self_contained_and_escaped(reported: Path) -> None:
    page = Page()
    page.feed((reported / "report.html").read_text())
    assert page.open == []
    assert "script" not in page.tags
    assert "Loss & <script>alert(1)</script>" in page.text
    assert len(page.sources) == page.tags.count("img") == 5
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


def test_report_of_nothing_and_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = make_experiment(tmp_path)
    report(str(tmp_path))
    assert "No verdict on tst" in capsys.readouterr().out
    write_run(run_folder(tmp_path, "baseline", 1), {50: 2.0}, 100, finished=False)
    write_report(experiment.output_dir)
    assert "not finished" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "figures" / "loss_flops.png").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_report_of_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no comparison"):
        report(str(tmp_path))


def test_terminal_table_is_aligned(reported: Path) -> None:
    shown = write_report(reported)
    table = [line for line in shown.splitlines() if line.startswith(("arm", "---", "baseline", "tst  "))]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert "3/3" in table[2]
    assert "13 min 20 s" in table[2]
    assert str(reported / "report.html") in shown


def test_markdown_cells_and_code_cannot_break_out() -> None:
    text = to_markdown([Table(["a|b"], [["x\ny | z"]]), Code("```\n# x"), Paragraph("<b>*bold*")], Path())
    assert text.splitlines()[0] == r"| a\|b |"
    assert text.splitlines()[2] == r"| x y \| z |"
    assert "````\n```\n# x\n````" in text
    assert r"\<b\>\*bold\*" in text
    assert "&lt;b&gt;" in to_html([Paragraph("<b>")], "t")
