"""The README's commands and code are run as they stand, on less text and for fewer steps."""

import re
import shlex
from pathlib import Path

import pytest

from tst_lightning import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALLER = {
    "fit": [
        "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--data.sequence_length=32", "--data.batch_size=2",
        "--trainer.precision=32"
    ],
    "evaluate": ["--limit=4"],
}  # fmt: skip
RUN_ELSEWHERE = {
    "make demo": "the demo",
    "make test": "this",
    "source .venv/bin/activate": "nothing to see",
    "tst-lightning compare --config configs/experiments/demo.yaml": "the demo; parsed in test_configs.py",
    "tst-lightning compare --config configs/experiments/books_small.yaml --only 'tst_s4_*' --budget_hours 3": "too",
    "tst-lightning report results/demo": "tests/comparison",
    "tst-lightning report results/demo --against results/other": "tests/comparison",
    "tst-lightning prepare --config configs/prepare/object_storage.yaml": "tests/data/preparing",
}


def commands(section: str) -> list[list[str]]:
    """Commands of a section's shell blocks, without comments, as lists of words."""
    body = README.split(f"## {section}\n")[1].split("\n## ")[0]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", body, flags=re.S)).replace("\\\n", " ")
    return [words for line in blocks.splitlines() if (words := shlex.split(line, comments=True))]


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


def test_the_walk_through_works(workplace, capsys):
    words_of_all = commands("Train on your own text")
    assert [words[1] for words in words_of_all[1:]] == ["prepare", "fit", "fit", "validate", "evaluate"]
    looks = commands("Data")[:2]
    assert [words[1] for words in looks] == ["inspect", "verify"]
    for words in [*words_of_all[1:], *looks]:
        assert words[0] == "tst-lightning"
        assert cli.main([*words[1:], *SMALLER.get(words[1], [])]) == 0, shlex.join(words)
    printed = capsys.readouterr().out
    assert "val/bits_per_byte" in printed
    assert "heldout_last_word" in printed
    assert "'data/mine' is intact" in printed


def test_the_code_for_ones_own_module_works(workplace):
    prepare = commands("Train on your own text")[1]
    assert cli.main(prepare[1:]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    quiet = "max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator='cpu',"
    assert "max_steps=100," in code
    exec(compile(code.replace("max_steps=100,", quiet), "README.md", "exec"), {"__name__": "readme"})


def test_every_other_command_is_run_elsewhere():
    others = [shlex.join(words) for section in ("Try it", "Compare") for words in commands(section)]
    others += [shlex.join(words) for words in commands("Data")[2:]]
    assert others == [command for command in RUN_ELSEWHERE if command in others]
    every = re.findall(r"^(?:make|tst-lightning|source) .*?(?=  |$)", README, flags=re.M)
    walked = " ".join(word for part in ("Train on your own text", "Data") for words in commands(part) for word in words)
    assert all(c in RUN_ELSEWHERE or c.split()[1] in walked for c in every)


def test_every_file_that_it_names_exists():
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    layout = README.split("## Layout\n")[1].split("\n## ")[0]
    listed = re.findall(r"^(    )?([a-z_]+(?:/|\.py))", layout, flags=re.M)
    paths = [f"tst_lightning/{entry}" if indent else entry for indent, entry in listed]
    assert len(paths) > 10
    assert [path for path in [*links, *paths] if not (ROOT / path).exists()] == []
