"""``tst-lightning inspect``: against the tokens as they lie in the shards, and text written out."""

import hashlib
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from object_storage import upload_folder
from pseudo_corpus import END_OF_TEXT, write_byte_tokenizer, write_prepared
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tst_lightning.cli import main
from tst_lightning.data.inspecting.lengths import document_lengths
from tst_lightning.data.inspecting.page import Phase, inspection_page
from tst_lightning.data.inspecting.windows import Decoder, Window, draw_windows, mark, plain_text
from tst_lightning.data.inspection import inspect
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.reading.shards import Shards
from tst_lightning.data.shard_format import map_shard
from tst_lightning.errors import UserError

END = 256
NASTY = '<script>alert(1)</script> & "é", 中\n\tend\x1b[31m\u202e'


@pytest.fixture
def decoder(tmp_path):
    write_byte_tokenizer(tmp_path / "bytes")
    return Decoder(AutoTokenizer.from_pretrained(tmp_path / "bytes"))


def shards_of(folder):
    manifest = Manifest.load(folder)
    return Shards(str(folder / "train"), manifest.train.shards, manifest.token_dtype, manifest.tokenizer.vocab_size)


def shard_ids(folder, split="train"):
    manifest = Manifest.load(folder)
    shards = getattr(manifest, split).shards
    return {shard.file: np.array(map_shard(folder / split / shard.file, "uint16")) for shard in shards}


def byte_ids(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


class Page(HTMLParser):
    """The elements of a page, with their text; refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in ("meta", "img", "wbr"):
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def named(self, name):
        return [element for element in self.elements if name in (element.get("class") or "").split()]


@pytest.mark.parametrize("bag_size", [1, 4])
def test_windows_are_rows_of_the_shards(bag_size, prepared_dir):
    ids = shard_ids(prepared_dir)
    windows = draw_windows(shards_of(prepared_dir), sequence_length=16, bag_size=bag_size, windows=50, seed=1)
    assert len({window[:2] for window in windows}) == 50
    for window in windows:
        assert window.first_token % (17 * bag_size) == 0
        part = ids[window.shard][window.first_token : window.first_token + 17 * bag_size]
        assert window.bags.tolist() == part.reshape(17, bag_size).tolist()
        assert 0 <= window.position < 16
    again, other = (draw_windows(shards_of(prepared_dir), 16, bag_size, 50, seed) for seed in (1, 2))
    assert [window[:2] for window in again] == [window[:2] for window in windows] != [window[:2] for window in other]
    assert {window.shard for window in windows} == set(ids)


def test_all_rows_are_shown_where_there_are_fewer_than_asked_for(prepared_dir):
    sizes = [len(ids) // 5001 for ids in shard_ids(prepared_dir).values()]
    windows = draw_windows(shards_of(prepared_dir), 5000, 1, windows=100, seed=0)
    assert len(windows) == len({window[:2] for window in windows}) == sum(sizes)


def test_documents_are_measured_across_shards(prepared_dir):
    """The shards of this corpus end in mid-document."""
    manifest = Manifest.load(prepared_dir)
    for split in ("train", "validation"):
        ids = np.concatenate(list(shard_ids(prepared_dir, split).values()))
        ends = (np.flatnonzero(ids == END) + 1).tolist()
        expected = [b - a for a, b in itertools.pairwise([0, *ends, len(ids)])]
        assert document_lengths(prepared_dir / split, getattr(manifest, split)).tolist() == expected


def test_tokens_of_bytes_are_their_bytes(decoder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bytes")
    texts = [decoder.text(token) for token in byte_ids(tokenizer, NASTY)]
    assert [text.encode(errors="surrogateescape") for text in texts] == [bytes([b]) for b in NASTY.encode()]
    assert decoder.text(END) == END_OF_TEXT
    assert decoder.text(5000) == "<5000>"


def test_tokens_of_other_tokenizers_are_read_too():
    from tokenizers import Tokenizer, decoders, models

    vocabulary = ["<unk>", "</s>", "▁a", "b", "<0xE2>", "<0x0A>"]
    backend = Tokenizer(models.BPE({token: n for n, token in enumerate(vocabulary)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    decoder = Decoder(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert [decoder.text(n) for n in range(1, 6)] == ["</s>", " a", "b", "\udce2", "\n"]


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("a", None), ("é", None), ("中", None), ("🙂", None),
        (" ", "·"), ("\n", "↵\n"), ("\t", "→"), ("\udce2", r"\xe2"),
        ("\x1b", r"\x1b"), ("\r", r"\r"), ("\u202e", r"\u202e"), ("\xa0", r"\xa0"), ("\U000e0001", r"\U000e0001"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_marked(character, shown):
    assert mark(character) == shown


@pytest.fixture
def nasty_dir(tmp_path):
    """A corpus whose documents are all the same one; its folder's name is to be escaped as well."""
    folder = tmp_path / "a & <b>"
    write_byte_tokenizer(folder / "tokenizer")
    ids = [*byte_ids(AutoTokenizer.from_pretrained(folder / "tokenizer"), NASTY), END]
    tokens = np.array(ids * 20, np.uint16)
    return write_prepared(folder, [tokens], [tokens])


def test_a_window_for_the_terminal(decoder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bytes")
    ids = [*byte_ids(tokenizer, "é of\n\t\x1b[0m"), END, *byte_ids(tokenizer, "|")]
    window = Window("chunk", 0, np.array(ids[: len(ids) // 2 * 2]).reshape(-1, 2), position=0)
    assert plain_text(window, decoder) == r"\xc3\xa9|·o|f↵" + "\n" + r"|→\x1b|[0|m<|endoftext|>"


def test_the_page_shows_the_tokens_of_the_shards(nasty_dir, tmp_path, capsys):
    inspect(str(nasty_dir), str(tmp_path / "out"), sequence_length=10, bag_size=4, windows=3)
    page = Page((tmp_path / "out" / "inspection.html").read_text())
    (ids,) = shard_ids(nasty_dir).values()
    texts = dict(zip(ids.tolist(), [*visible(NASTY), END_OF_TEXT], strict=False))
    rows = page.named("row")
    assert len(rows) == 6
    bags = iter(b for b in page.named("bag") if "title" in b)
    places = [h["text"] for h in page.elements if h["tag"] == "h3"]
    for row, place, s in zip(rows, places, [4] * 3 + [1] * 3, strict=True):
        first, last = (int(n.replace(",", "")) for n in re.search(r"tokens ([\d,]+) to ([\d,]+)$", place).groups())
        assert last - first + 1 == 11 * s
        assert row["text"] == "".join(texts[token] for token in ids[first : last + 1].tolist())
        kinds = []
        for number, bag in enumerate(itertools.islice(bags, 11)):
            in_bag = ids[first + number * s : first + (number + 1) * s].tolist()
            assert bag["text"] == "".join(texts[token] for token in in_bag)
            assert bag["title"] == f"position {number}: {' '.join(map(str, in_bag))}"
            kinds.append(bag["class"].split()[1])
        reads = kinds.index("reads")
        assert kinds[reads + 1] == "target"
        assert [k for k in kinds if k in ("reads", "target")] == ["reads", "target"]
    assert next(bags, None) is None


def visible(text):
    """Byte by byte, by hand."""
    shown = {b" ": "·", b"\n": "↵\n", b"\t": "→", b"\x1b": r"\x1b"}
    single = [bytes([byte]) for byte in text.encode()]
    return [shown.get(b) or (b.decode() if b < b"\x7f" else f"\\x{b[0]:02x}") for b in single]


def test_text_of_the_corpus_cannot_become_part_of_the_page(nasty_dir, tmp_path):
    inspect(str(nasty_dir), str(tmp_path / "out"), sequence_length=40, windows=2)
    text = (tmp_path / "out" / "inspection.html").read_text()
    page = Page(text)
    assert "<script" not in text
    assert {e["tag"] for e in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "div", "table", "thead", "tbody",
        "tr", "th", "td", "figure", "img", "p", "span", "i", "b", "u", "wbr",
    }  # fmt: skip
    assert next(e["text"] for e in page.elements if e["tag"] == "title") == f"What is in {nasty_dir}"
    assert not re.search(r"(src|href)=\"(?!data:)", text), "the page needs no other file"


def test_a_token_that_is_a_tag_is_shown_as_one():
    class Tags:
        special_ids = frozenset({1})

        def text(self, token_id):
            return ["<script>'\"</script>", "<b onclick=x>&amp;"][token_id]

    window = Window("<i>.bin", 0, np.array([[0], [1]]), position=0)
    page = Page(inspection_page("<u>", [["<i>"], ["&lt;"]], b"", [Phase("<b>", 1, [window])], Tags()))
    assert page.named("row")[0]["text"] == "<script>'\"</script><b onclick=x>&amp;"
    texts = {e["tag"]: e["text"] for e in page.elements}
    assert (texts["h1"], texts["th"], texts["td"], texts["h3"]) == ("<u>", "<i>", "&lt;", "<i>.bin, tokens 0 to 1")
    assert not {"script", "u"} & texts.keys()


def test_counts_are_those_of_the_corpus(prepared_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tree_hash(prepared_dir)
    assert main(["inspect", str(prepared_dir), "--sequence_length", "63", "--bag_size", "2"]) == 0
    assert tree_hash(prepared_dir) == before
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("inspection/**/*.*"))
    assert written == ["inspection/prepared/document_lengths.png", "inspection/prepared/inspection.html"]
    assert (tmp_path / written[0]).read_bytes().startswith(b"\x89PNG")

    out = capsys.readouterr().out
    facts = dict(re.findall(r"^(\S.*?)  +(\S+)  +\S+$", out, re.MULTILINE))
    ids = np.concatenate(list(shard_ids(prepared_dir).values()))
    ends = np.flatnonzero(ids == END) + 1
    lengths = np.diff([0, *ends, len(ids)])
    long = {tokens: sum(n for n in lengths.tolist() if n > tokens) / len(ids) for tokens in (128, 64)}
    assert facts == {
        "documents": str(len(ends)),
        "tokens": "91,900",
        "MB of text": "0.09",
        "shards": "4",
        "tokens per byte of text": "1.000",
        "tokens of a document: mean": f"{lengths.mean():.1f}",
        "tokens of a document: median": f"{np.median(lengths):.0f}",
        "tokens of a document: longest": f"{lengths.max():,}",
        "tokens in documents longer than a row of superposition (128)": f"{long[128]:.1%}",
        "tokens in documents longer than a row of recovery (64)": f"{long[64]:.1%}",
    }
    rows = re.findall(r"^(?:Superposition, 2 tokens|Recovery, 1 token) a position \(.*\):$", out, re.MULTILINE)
    assert len(rows) == 2


def tree_hash(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


def test_without_superposition_one_kind_of_row_is_shown(prepared_dir, tmp_path, capsys):
    inspect(str(prepared_dir), str(tmp_path / "out"), sequence_length=16, bag_size=1)
    out = capsys.readouterr().out
    assert "Next-token training, 1 token a position" in out
    assert "Superposition" not in out


def test_a_corpus_in_object_storage_is_inspected(prepared_dir, bucket_url, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where the cache is
    monkeypatch.chdir(tmp_path)
    inspect(str(prepared_dir), str(tmp_path / "local"))
    url = upload_folder(prepared_dir, f"{bucket_url}/some/corpus")
    inspect(url)
    local, remote = (
        Page((tmp_path / folder / "inspection.html").read_text()) for folder in ("local", "inspection/corpus")
    )
    assert [row["text"] for row in remote.named("row")] == [row["text"] for row in local.named("row")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length is 0, and must be at least 1"),
        ({"bag_size": 0}, "bag_size is 0, and must be at least 1"),
        ({"windows": 0}, "windows is 0, and must be at least 1"),
        ({"seed": -1}, "seed is -1, and must be at least 0"),
        ({"sequence_length": 7500}, r"longest shard of .* has 30,000 tokens, less than the 30,004 of a row"),
        ({"data_dir": "nowhere"}, "no prepared corpus at 'nowhere'"),
    ],
)
def test_what_cannot_be_shown_is_refused(options, message, prepared_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        inspect(**{"data_dir": str(prepared_dir), "output_dir": str(tmp_path / "out")} | options)
    assert not (tmp_path / "out").exists()
