import json
import random
from pathlib import Path

import pytest

from tst_lightning.data.preparing.heldout import CONTINUATION, LAST_WORD, PASSAGE_BYTES, write_heldout_items

NOUNS = ["river", "mountain", "letter", "window", "garden", "castle", "forest", "station", "morning", "evening"]


def story(seed: int, sentences: int) -> str:
    """Sentences whose last word occurred two words earlier, in lines of several sentences."""
    generator = random.Random(seed)
    lines = []
    for _ in range(sentences):
        one, two, three = generator.sample(NOUNS, 3)
        lines.append(f"They saw the {one} and the {two} of {generator.choice(NOUNS)} {three}, not the {one}.")
    return "\n".join(" ".join(lines[i : i + 3]) for i in range(0, len(lines), 3))


def read(folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]


@pytest.fixture(params=["many small", "few huge"])
def documents(request: pytest.FixtureRequest) -> list[str]:
    small = request.param == "many small"
    return [story(seed, 8 if small else 600) for seed in range(300 if small else 3)]


def test_last_word_items_are_text_and_repeat_their_target(documents: list[str], tmp_path: Path) -> None:
    counts = write_heldout_items(documents, tmp_path, seed=0, max_items=40)
    items = read(tmp_path, LAST_WORD)
    assert counts[LAST_WORD] == len(items) == 40
    for item in items:
        passage = f"{item['context']} {item['target']}"
        assert any(f"{passage}." in document for document in documents)
        assert len(passage.encode()) <= PASSAGE_BYTES
        assert len(item["target"]) >= 4
        assert item["target"] in item["context"].split()
    assert len({item["context"] for item in items}) == 40


def test_continuation_items_have_one_right_answer_anywhere(documents: list[str], tmp_path: Path) -> None:
    counts = write_heldout_items(documents, tmp_path, seed=0, max_items=100)
    items = read(tmp_path, CONTINUATION)
    assert counts[CONTINUATION] == len(items) == 100
    for item in items:
        passages = [f"{item['context']} {choice}" for choice in item["choices"]]
        real = [any(passage in document for document in documents) for passage in passages]
        assert real.index(True) == item["label"]
        assert sum(real) == 1
        assert all(any(choice in document for document in documents) for choice in item["choices"])
        lengths = [len(choice.encode()) for choice in item["choices"]]
        assert 50 <= min(lengths) <= max(lengths) <= 80
        assert max(len(passage.encode()) for passage in passages) <= PASSAGE_BYTES
    places = [sum(item["label"] == label for item in items) for label in range(4)]
    assert min(places) >= 12  # 25 expected; binomial tail below 0.1 %


def test_same_seed_same_files_other_seed_others(tmp_path: Path) -> None:
    documents = [story(seed, 20) for seed in range(100)]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_heldout_items(iter(documents), tmp_path / name, seed=seed, max_items=20)
    for task in (LAST_WORD, CONTINUATION):
        a, b, c = [(tmp_path / name / f"{task}.jsonl").read_bytes() for name in "abc"]
        assert a == b
        assert a != c


def test_sample_is_spread_over_all_documents(tmp_path: Path) -> None:
    documents = [story(seed, 300).replace("They", f"Group{seed}") for seed in range(6)]
    write_heldout_items(documents, tmp_path, seed=0, max_items=60)
    found = {seed for seed in range(6) for item in read(tmp_path, LAST_WORD) if f"Group{seed} " in item["context"]}
    assert found == set(range(6))


def test_technical_text_gives_items_and_skips_tables(tmp_path: Path) -> None:
    prose = "Return the shape of the array, where the first dimension is the batch of the array.\n\n"
    table = "=====  =====\n  1.0    2.0\n  3.0    4.0\n=====  =====\n" * 4
    documents = [f"{prose}Argument {i} gives the number of rows and columns of the output shape {i}.\n" * 2 + table
                 for i in range(50)]  # fmt: skip
    counts = write_heldout_items(documents, tmp_path, seed=0, max_items=10)
    assert counts == {LAST_WORD: 10, CONTINUATION: 10}
    assert not any("=====" in line for line in (tmp_path / f"{CONTINUATION}.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    "documents",
    [
        [],
        [""],
        ["short"] * 100,
        ["x" * 5000] * 3,
        ["没有空格的文字。" * 300] * 5,
        [" \n" * 1000],
        ["1 2 3. " * 500] * 5,
        ["\ud800 broken " * 100] * 3,
    ],
)
def test_too_little_text_gives_no_items_and_no_files(documents: list[str], tmp_path: Path) -> None:
    stale = tmp_path / f"{LAST_WORD}.jsonl"
    stale.write_text("{}\n")
    assert write_heldout_items(documents, tmp_path, seed=0, max_items=10)[LAST_WORD] == 0
    assert not stale.exists()


def test_no_items_wanted(tmp_path: Path) -> None:
    assert write_heldout_items([story(0, 50)], tmp_path, 0, max_items=0) == {LAST_WORD: 0, CONTINUATION: 0}


def test_non_ascii_text_stays_within_the_byte_limit(tmp_path: Path) -> None:
    documents = [story(seed, 60).replace("e", "é").replace("a", "ä") for seed in range(10)]
    write_heldout_items(documents, tmp_path, seed=0, max_items=20)
    items = read(tmp_path, LAST_WORD)
    assert len(items) == 20
    assert max(len(f"{item['context']} {item['target']}".encode()) for item in items) <= PASSAGE_BYTES
