"""The README's commands and code are run as they stand, on less text and for fewer steps."""

import re
import shlex

import pytest
import walkthrough
from walkthrough import ROOT, code, run_command, section, workplace  # noqa: F401 - a fixture

from tst_lightning import cli

README = (ROOT / "README.md").read_text()
RUN_ELSEWHERE = {
    "make demo": "the demo",
    "make test": "this",
    "source .venv/bin/activate": "nothing to see",
    "tst-lightning compare --config configs/experiments/demo.yaml": "the demo; parsed in test_configs.py",
    "tst-lightning compare --config configs/experiments/books_small.yaml --only 'tst_s4_*' --budget_hours 3": "too",
    "tst-lightning report results/demo": "tests/comparison",
    "tst-lightning report results/demo --against results/other": "tests/comparison",
    "tst-lightning plan --config configs/model/llama_270m.yaml --config configs/data/dclm_llama3.yaml \\": "tests/plan",
    "tst-lightning mutual-information data/mine": "tests/data/mutual_information",
    "tst-lightning prepare --config configs/prepare/object_storage.yaml": "tests/data/preparing",
}


def commands(title: str) -> list[list[str]]:
    return walkthrough.commands(section(README, title))


@pytest.mark.usefixtures("workplace")
def test_the_walk_through_works(capsys):
    words_of_all = commands("Train on your own text")
    assert [words[1] for words in words_of_all[1:]] == ["prepare", "fit", "fit", "validate", "evaluate"]
    looks = commands("Data")[:2]
    assert [words[1] for words in looks] == ["inspect", "verify"]
    for words in [*words_of_all[1:], *looks]:
        run_command(words)
    printed = capsys.readouterr().out
    assert "val/bits_per_byte" in printed
    assert "heldout_last_word" in printed
    assert "'data/mine' is intact" in printed


@pytest.mark.usefixtures("workplace")
def test_the_code_for_ones_own_module_works():
    prepare = commands("Train on your own text")[1]
    assert cli.main(prepare[1:]) == 0
    (block,) = code(README)
    assert "max_steps=4," in block
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


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
