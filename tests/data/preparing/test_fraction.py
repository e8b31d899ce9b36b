"""The validation_fraction that is advised does what it is said to do."""

import json
import re
from pathlib import Path

import pytest

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.prepare import prepare
from tst_lightning.data.preparing.fraction import MOST_DOCUMENTS, advice
from tst_lightning.data.preparing.routing import Router, document_digest
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.tokenizer import Bytes
from tst_lightning.errors import UserError


class Document:
    def __init__(self, text: str) -> None:
        self.data = text.encode()


@pytest.mark.parametrize("wanted", [1e-12, 0.01, 0.2, 0.7, 1 - 1e-12])
@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_both_splits_have_documents(count: int, wanted: float) -> None:
    texts = [f"text {number} of {count}" for number in range(count)]
    message = advice(count, wanted, lambda: [document_digest(text.encode()) for text in texts])
    fraction, held_out = re.match(r"set validation_fraction to (0\.\d+), which holds out (\d+) of", message).groups()
    sides = [Router(float(fraction)).split(Document(text)) for text in texts]
    assert sides.count("validation") == int(held_out)
    assert 1 <= int(held_out) <= max(1, count // 2)
    shorter = float(fraction[:-1] or 0)
    assert [Router(shorter).split(Document(text)) for text in texts] != sides  # no fewer digits would do


def test_repetitions_are_one_text() -> None:
    assert "a corpus of one text cannot have both" in advice(3, 0.2, lambda: [document_digest(b"a")] * 3)


def test_many_documents_are_not_read_again() -> None:
    message = advice(10 * MOST_DOCUMENTS, 1e-12, lambda: pytest.fail("read"))
    assert message == "raise it (to 1e-05, say)"
    assert advice(10 * MOST_DOCUMENTS, 1 - 1e-12, lambda: pytest.fail("read")) == "lower it (to 0.01, say)"


@pytest.mark.parametrize(("fraction", "split"), [(1e-6, "validation"), (1 - 1e-6, "train")])
def test_a_corpus_of_few_documents_is_prepared_as_advised(tmp_path: Path, capsys, fraction: float, split: str) -> None:
    """Documents beyond a limit have no say."""
    lines = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(9))
    (tmp_path / "text.jsonl").write_text(lines)
    options = {"output_dir": str(tmp_path / "out"), "tokenizer": Bytes(), "max_documents": 5, "workers": 1}
    source = JsonLines(str(tmp_path / "text.jsonl"))
    with pytest.raises(UserError, match=f"none of 5 documents falls into {split}") as raised:
        prepare(source, validation_fraction=fraction, **options)
    advised = float(re.search(r"validation_fraction to (0\.\d+)", str(raised.value))[1])
    assert re.search(r"holds out (\d) of 5 texts", str(raised.value))
    prepare(source, validation_fraction=advised, **options)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.train.documents + manifest.validation.documents == 5
    assert min(manifest.train.documents, manifest.validation.documents) >= 1
    said = "heldout_last_word: 0 (too little running text among the validation documents to make an item; `evaluate"
    assert said in capsys.readouterr().out
