"""What `report --against` writes and says, and what it refuses to read."""

import json
import re
import shutil
from pathlib import Path

import pytest
from two_reports import BASE, against, other_rate, shifted, write_report_json

from tst_lightning.comparison.against.report import write_against
from tst_lightning.comparison.against.sentences import labels
from tst_lightning.comparison.command import report
from tst_lightning.errors import UserError

REAL_REPORT = Path(__file__).parents[3] / "results" / "books_cpu" / "report.json"


def test_refuses_folders_with_nothing_to_compare(tmp_path) -> None:
    here = write_report_json(tmp_path / "here", {"baseline": BASE, "tst": BASE})
    text = write_report_json(tmp_path / "text", {"baseline": BASE, "tst": BASE}, config={"": {"data_dir": "data/b"}})
    with pytest.raises(UserError, match=r"baseline, tst: data.data_dir: data/a against data/b"):
        against(here, text)
    with pytest.raises(UserError, match=r"no arm in common \(baseline, tst against other\)"):
        against(here, write_report_json(tmp_path / "names", {"other": BASE}))
    with pytest.raises(UserError, match="cannot be compared with itself"):
        write_against(here, tmp_path / "text" / ".." / "here")


def test_reports_that_cannot_be_read(tmp_path) -> None:
    good = write_report_json(tmp_path / "good", {"baseline": BASE})
    folder = tmp_path / "other"
    with pytest.raises(UserError, match="holds no comparison"):
        write_against(good, folder)
    folder.mkdir()
    (folder / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match=f"write it with `tst-lightning report {folder}` first"):
        write_against(good, folder)
    path = folder / "report.json"
    for content, problem in {
        '{"format_version": 2, "ar': "not readable as JSON",
        '{"format_version": 3}': "has format_version 3, this release reads 1 and 2",
        '{"arms": {}}': "has format_version None",
        '{"format_version": 2, "runs": []}': "is not a whole report of format 2",
    }.items():
        path.write_text(content)
        with pytest.raises(UserError, match=problem):
            write_against(good, folder)
    assert [found.name for found in good.iterdir()] == ["report.json"]


def test_what_is_written_and_shown(tmp_path, capsys) -> None:
    ours = {"baseline": BASE, "<b>tst</b>": shifted(0.03)}
    theirs = {"baseline": BASE, "<b>tst</b>": shifted(0.05)}
    accuracy = {"baseline": {1: 0.5, 2: 0.6}}
    here = write_report_json(tmp_path / "here", ours, cpu="Slow CPU", accuracy=accuracy)
    there = write_report_json(
        tmp_path / "there", theirs, 2, config=other_rate(), seconds=25.0, cpu="Fast CPU", accuracy=accuracy
    )
    before = [(folder / "report.json").read_bytes() for folder in (here, there)]
    report(str(here), against=str(there))
    shown = capsys.readouterr().out
    assert [(folder / "report.json").read_bytes() for folder in (here, there)] == before
    assert sorted(path.name for path in there.iterdir()) == ["report.json"]
    assert shown.startswith("<b>tst</b> against baseline: the effect replicates (-0.0302 in here, n = 3; -0.0502 in")
    assert str(here / "against-there.html") in shown

    page = (here / "against-there.html").read_text()
    assert "<b>tst</b>" not in page
    assert re.findall(r'src="(.{20})', page) == ["data:image/png;base6"] * 2
    assert "<script" not in page
    assert not re.findall(r'href="|https?://', page)
    text = (here / "against-there.md").read_text()
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (here / link).is_file()
    assert "here: Slow CPU, CPUs: 2, no GPU, CPU threads per run: 1." in text
    assert "there: Fast CPU" in text
    ratio = next(line for line in text.splitlines() if "| ratio |" in line)
    assert ratio.split(" | ")[2:] == ["1", "1", "1", "4", "0.25 |"]
    assert "model.optimizer.init\\_args.lr: 0.01 against 0.02 (all arms)" in text
    values = json.loads((here / "against-there.json").read_text())
    assert values["effects"][0]["outcome"] == "replicates"
    assert values["arms"]["baseline"]["there"]["losses"] == {str(seed): loss for seed, loss in BASE.items()}
    assert values["here"]["machines"] == ["Slow CPU, CPUs: 2, no GPU, CPU threads per run: 1"]


def test_folders_of_one_name_are_told_apart(tmp_path) -> None:
    folders = [write_report_json(tmp_path / place / "same", {"baseline": BASE}, config=config)
               for place, config in {"x": None, "y": other_rate()}.items()]  # fmt: skip
    assert labels(against(*folders)) == (str(folders[0]), str(folders[1]))


def test_a_copy_of_a_real_report_is_the_same_runs(tmp_path) -> None:
    """A committed report of format 1, whose runs are gone."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(REAL_REPORT, folder)
    shown = write_against(*folders)
    assert "no replication, all pairs in one and two are the same runs" in shown
    assert "4 runs that both have, equal in all settings, came to the same loss." in shown
    assert "\nsame runs " in shown
