"""Messages are taken from jsonargparse itself, so that a change of their form there is noticed here."""

import textwrap
from argparse import ArgumentError
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from tst_lightning.parsing.messages import in_one_line


class Part:
    def __init__(self, size: int, ratio: float | None = None, kind: Literal["round", "square"] = "round"): ...


class Whole:
    def __init__(self, part: Part | None = None): ...


TYPES = {
    "count": int, "share": float | None, "share_or_count": int | float, "switch": bool,
    "limit": int | None, "part": Part, "switch_or_count": bool | int,
    "name": Literal["mean", "sum"], "either": Literal[64, 32] | Literal["bf16", "64"] | None,
    "weights": Literal["uniform"] | list[float], "parts": list[Part] | Part | None, "whole": Whole | None,
}  # fmt: skip
PART, WHOLE = f"{__name__}.Part", f"{__name__}.Whole"
BROKEN = {
    "integer": (["count=many"], "count=many: give an integer"),
    "float for an integer": (["count=1.5"], "count=1.5: give an integer"),
    "exponent": (["count=1e6"], "count=1000000.0: give an integer, written 1000000"),
    "not finite": (["count=.inf"], "count=inf: give an integer"),
    "mapping": (['count={"a": 1}'], "count={'a': 1}: give an integer"),
    "optional": (["share=x"], "share=x: give a number"),
    "two kinds": (["share_or_count=x"], "share_or_count=x: give a number"),
    "optional integer": (["limit=1e1"], "limit=10.0: give an integer, written 10"),
    "required class": (["part=Nope"], "part=Nope: give the import path of a class"),
    "boolean": (["switch=maybe"], "switch=maybe: give true or false"),
    "boolean or integer": (["switch_or_count=x"], "switch_or_count=x: give true or false, or an integer"),
    "choice": (["name=men"], "name=men: choose one of mean, sum (did you mean mean?)"),
    "several lists": (["either=bf17"], "either=bf17: choose one of 64, 32, bf16 (did you mean bf16?)"),
    "several lists, a number": (["either=8"], "either=8: choose one of 64, 32, bf16"),
    "choice or list": (["weights=x"], "weights=x: choose one of uniform, or give a list"),
    "entry of a list": (["weights=[1.0, x]"], "weights=x: give a number"),
    "no class": (["parts=Nope"], "parts=Nope: give a list or the import path of a Part"),
    "module": (["whole=nowhere.Nope"], "whole, nowhere.Nope: No module named 'nowhere'"),
    "member": (["whole=collections.Cuonter"], "whole, collections.Cuonter: there is no 'Cuonter' in collections"),
    "another class": (["whole=collections.Counter"], "whole=collections.Counter: give the import path of a Whole"),
    "required": ([f"parts={PART}"], f"parts, {PART}: size has no default: give it, under init_args in a config file"),
    "before a class": (["whole.part.size=x"], f"whole, {WHOLE}: part"),
}


def complaint(arguments: list[str]) -> str:
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in TYPES.items():
        parser.add_argument(f"--{name}", type=kind)
    with pytest.raises(ArgumentError) as raised:
        parser.parse_args([f"--{argument}" for argument in arguments])
    return str(raised.value)


@pytest.mark.parametrize(("arguments", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_value_constraint_and_remedy_in_one_line(arguments: list[str], message: str) -> None:
    said = in_one_line(complaint(arguments))
    assert said.startswith(message), said
    assert "\n" not in said
    assert "Union" not in said


@pytest.mark.parametrize(
    ("key", "place"), [("parts", f"parts, {PART}"), ("whole.part", f"whole, {WHOLE}: part, {PART}")]
)
def test_an_option_of_a_class(key: str, place: str) -> None:
    given = [f"{key}={PART}", f"{key}.size=2"]
    assert in_one_line(complaint([*given, f"{key}.ratio=30%"])) == f"{place}: ratio=30%: give a number"
    assert in_one_line(complaint([*given, f"{key}.size=1e1"])) == f"{place}: size=10.0: give an integer, written 10"
    misspelt = in_one_line(complaint([*given, f"{key}.raito=0.3"]))
    assert misspelt == f"{place}: it has no option 'raito' (did you mean ratio?)"


def test_an_option_that_another_in_the_list_has() -> None:
    said = in_one_line(complaint([f"parts={PART}", "parts.size=2", "parts.colour=red"]))
    assert said.startswith(f"parts, {PART}: it has no option 'colour'; --parts.OPTION is one of the last in the list")


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    text = f"Parser key \"config\": Path is not a file: '{tmp_path}'"
    assert in_one_line(text) == f"config: '{tmp_path}' is a folder: give one of its files (a.yaml)"


def test_text_of_another_form_is_kept_word_for_word() -> None:
    for text in ("a\n  b", "x. Got value: 3", 'Parser key "a": odd\n  words', "Errors:\n  - a\nGiven value: 3"):
        said = in_one_line(text)
        assert all(word.strip('":') in said for word in text.split() if word not in ("Parser", "key", "Got", "value:"))


def test_half_a_message_loses_no_value() -> None:
    """Forms that are not known, as those of another jsonargparse, are not cut away."""
    text = complaint([f"parts={PART}", "parts.size=2", "parts.ratio=30%"])
    lines = text.splitlines()
    for end in range(1, len(lines)):
        part = "\n".join(lines[:end])
        said = in_one_line(part)
        assert said
        assert ("30%" in said) == ("30%" in part)
    assert "strange" in in_one_line(textwrap.dedent(text).replace("Expected a <class 'float'>", "strange words"))
