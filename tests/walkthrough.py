"""Documentation that is run as it stands: its commands, its code and its files, on less text and for fewer steps."""

import re
import shlex
from pathlib import Path

import pytest

from tst_lightning import cli

ROOT = Path(__file__).parents[1]
SMALLER = {
    "fit": [
        "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--data.sequence_length=32", "--data.batch_size=2",
        "--trainer.precision=32"
    ],
    "evaluate": ["--limit=4"],
}  # fmt: skip
QUIETER = "max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator='cpu',"


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """Commands of a text's shell blocks, without comments, as lists of words."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).replace("\\\n", " ")
    return [words for line in blocks.splitlines() if (words := shlex.split(line, comments=True))]


def files(text: str) -> dict[str, str]:
    """Files that a text shows whole: blocks with the file's name as their title."""
    return dict(re.findall(r'```\w+ title="(.+?)"\n(.*?)```', text, flags=re.S))


def run_command(words: list[str], smaller: dict[str, list[str]] = SMALLER) -> None:
    """Run one of our commands, with the options that make it small."""
    assert words[0] == "tst-lightning"
    assert cli.main([*words[1:], *smaller.get(words[1], [])]) == 0, shlex.join(words)


def code(text: str) -> list[str]:
    """Python blocks of a text; trainers of 100 steps are made short and quiet."""
    return [block.replace("max_steps=100,", QUIETER) for block in re.findall(r"```python\n(.*?)```", text, flags=re.S)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the configs and some text in ``my_text``, as a user would have it."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_text").mkdir()
    words = re.findall(
        r"\w+", "the river was wide and old friends crossed it slowly while evening came over quiet hills"
    )
    for number in range(400):
        starts = range(number, number + 20)
        sentences = [" ".join(words[start * k % len(words)] for k in range(1, 12)) for start in starts]
        (tmp_path / "my_text" / f"{number}.txt").write_text(f"Chapter {number}. " + ". ".join(sentences) + ".")
    monkeypatch.chdir(tmp_path)
    return tmp_path
