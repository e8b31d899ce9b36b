"""The disk fills up while a corpus is prepared: finished parts stay, and the same command goes on from them."""

from pathlib import Path

from full_disk import largest_file
from programs import prepare_arguments

from tst_lightning.cli import main


def files(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_parts_stay(tmp_path, capfd):
    """Shards of most parts fit, those of the longest do not."""
    arguments = prepare_arguments(tmp_path)
    assert main([*arguments, "--output_dir", f"{tmp_path}/whole"]) == 0
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole" / "train").glob("*.bin"))
    assert sizes[0] < sizes[-1]
    capfd.readouterr()
    with largest_file(sizes[-1] - 1):
        status = main(arguments)
    errors = capfd.readouterr().err
    assert status == 2
    assert "cannot write output_dir" in errors
    assert "free space" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "prepared").exists()
    assert main(arguments) == 0
    assert "parts are finished" in capfd.readouterr().out
    assert files(tmp_path / "prepared") == files(tmp_path / "whole")
