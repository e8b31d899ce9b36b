"""Bag weights from ``mutual_information.json``, read before a run by whoever needs them."""

import json
import subprocess
import sys

import pytest

from tst_lightning.data.manifest import TokenizerInfo
from tst_lightning.data.mutual_information.weights import (
    FILE_NAME,
    FittedPowerLaw,
    fitted_bag_weights,
    read_fit,
    require_tokenizer,
)
from tst_lightning.errors import UserError

WHOLE = {"format_version": 1, "tokenizer_hash": "t" * 64, "corpus_hash": "c" * 64,
         "fit": {"c0": 3.63, "a": 1.35, "k": -1.25, "c0_error": 0.1}}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps(WHOLE))
    return path


def test_weights_of_the_papers_fit(path):
    assert read_fit(path) == FittedPowerLaw("t" * 64, "c" * 64, 3.63, 1.35, -1.25)
    values = [4.98, 3.63 + 1.35 * 2**-1.25, 3.63 + 1.35 * 3**-1.25, 3.63 + 1.35 * 4**-1.25]
    assert fitted_bag_weights(path, 4) == pytest.approx([value / sum(values) for value in values], rel=1e-12)
    assert fitted_bag_weights(path, 1) == (1.0,)
    assert sum(fitted_bag_weights(path, 16)) == pytest.approx(1, abs=1e-12)


def test_a_folder_stands_for_the_file_in_it(path):
    assert fitted_bag_weights(str(path.parent), 4) == fitted_bag_weights(str(path), 4)


def changed(**values):
    return json.dumps({**WHOLE, **values})


DAMAGED = {
    "half a file": (json.dumps(WHOLE)[:50], "cannot be read as JSON"),
    "not text": ("\0\xff", "cannot be read as JSON"),
    "a list": ("[1, 2]", "holds no fitted"),
    "no version": (json.dumps({"fit": WHOLE["fit"]}), "holds no fitted"),
    "a newer version": (changed(format_version=2), "format version 2, and this release reads 1"),
    "no fit": (changed(fit=None), "holds no fitted"),
    "no exponent": (changed(fit={"c0": 1, "a": 2}), "'k'"),
    "text for a number": (changed(fit={"c0": "1", "a": 2, "k": -1}), "no finite number"),
    "not a number": (changed(fit={"c0": 1, "a": 2, "k": float("nan")}), "no finite number"),
    "rising": (changed(fit={"c0": 1, "a": 2, "k": 0.5}), "no falling curve"),
    "no hash": (changed(tokenizer_hash=None), "no text"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(path, content, message):
    path.write_text(content)
    for read in (read_fit, lambda path: fitted_bag_weights(path, 4)):
        with pytest.raises(UserError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert "tst-lightning mutual-information" in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match=r"no file .*: make it with `tst-lightning mutual-information"):
            read_fit(missing)


def test_weights_are_above_zero_or_refused(path):
    path.write_text(changed(fit={"c0": -0.1, "a": 1.0, "k": -1.0}))
    assert min(fitted_bag_weights(path, 9)) > 0
    with pytest.raises(UserError, match=r"not above zero at distance 10, .* bag_size below 10"):
        fitted_bag_weights(path, 16)


@pytest.mark.parametrize("bag_size", [0, -4, 2.5])
def test_bag_sizes_are_whole_numbers_from_one(path, bag_size):
    with pytest.raises(UserError, match="bag_size="):
        fitted_bag_weights(path, bag_size)


def test_another_tokenizer_is_refused(path):
    require_tokenizer(path, TokenizerInfo(257, 256, "t" * 64))
    require_tokenizer(path, None)
    with pytest.raises(UserError, match=r"another tokenizer \(tttttttttttt\) .* \(eeeeeeeeeeee\)"):
        require_tokenizer(path, TokenizerInfo(257, 256, "e" * 64))


def test_nothing_heavy_is_imported():
    heavy = ("torch", "transformers", "lightning", "scipy", "matplotlib", "numpy")
    code = (
        "from tst_lightning.data.mutual_information.weights import fitted_bag_weights; import sys; "
        f"print('HEAVY', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "HEAVY []" in done.stdout
