from html.parser import HTMLParser
from pathlib import Path

import pytest

from tst_lightning.comparison.reporting.document import (
    Code,
    Figure,
    Folded,
    Heading,
    Marked,
    Notes,
    Paragraph,
    Table,
    Verdict,
    to_html,
    to_markdown,
)
from tst_lightning.drawing import DOTS_PER_INCH, STYLE, empty_figure, png

_WITHOUT_END = ("meta", "img", "br")


class Page(HTMLParser):
    """Checks that tags nest, and collects them with every link to something else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in _WITHOUT_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def require_self_contained(self) -> None:
        """Nothing is run, and nothing is read but what is in the page."""
        assert not {"script", "link", "iframe", "object", "embed", "base"} & set(self.tags)
        assert self.handlers == []
        assert all(source.startswith("data:image/png;base64,") for source in self.sources)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    import matplotlib

    path = tmp_path / "figures" / "a.png"
    path.parent.mkdir()
    with matplotlib.rc_context(STYLE):
        figure, _ = empty_figure(1, 1, (4.0, 2.0))
        path.write_bytes(png(figure))
    return path


def test_html_escapes_nests_and_needs_nothing_else(picture: Path) -> None:
    evil = '<script>alert("1")</script>'
    blocks = [
        Heading(evil, 1),
        Verdict(evil, [evil]),
        Paragraph(evil),
        Notes([evil]),
        Notes([]),
        Table([evil, "b"], [[Marked(evil, f'red"{evil}'), evil]]),
        Figure(picture, evil),
        Folded(evil, [Code(evil), Folded("inner", [Paragraph(evil)])]),
    ]
    text = to_html(blocks, evil)
    page = Page(text)
    page.require_self_contained()
    assert page.text.count(evil) == 13
    assert page.tags.count("details") == page.tags.count("summary") == 2
    assert page.tags.count("ul") == 1
    assert "url(" not in text
    assert "@import" not in text


def test_pictures_are_shown_in_the_size_that_they_were_drawn_in(picture: Path) -> None:
    from PIL import Image

    inches = Image.open(picture).width / DOTS_PER_INCH
    assert f"--width:{inches:.2f}in" in to_html([Figure(picture, "x")], "t")
    assert 3.5 < inches < 4.5


def test_text_columns_and_marks() -> None:
    text = to_html([Table(["a", "b", "c"], [[Marked("x", "#0072B2"), "y", "1"]], text_columns=2)], "t")
    assert '<td class="text"><span class="mark" style="border-color:#0072B2"></span>x</td>' in text
    assert '<td class="text">y</td><td>1</td>' in text
    markdown = to_markdown([Table(["a", "b", "c"], [[Marked("x", "#0072B2"), "y", "1"]], text_columns=2)], Path())
    assert markdown.splitlines() == ["| a | b | c |", "| --- | --- | ---: |", "| x | y | 1 |"]


def test_markdown_cells_and_code_cannot_break_out() -> None:
    text = to_markdown([Table(["a|b"], [["x\ny | z"]]), Code("```\n# x"), Paragraph("<b>*bold*")], Path())
    assert text.splitlines()[0] == r"| a\|b |"
    assert text.splitlines()[2] == r"| x y \| z |"
    assert "````\n```\n# x\n````" in text
    assert r"\<b\>\*bold\*" in text


def test_markdown_of_folded_blocks_pictures_and_verdicts(picture: Path) -> None:
    blocks = [Verdict("First.", ["Second."]), Folded("A & <b>", [Figure(picture, "Seen."), Notes(["one", "two"])])]
    assert to_markdown(blocks, picture.parent.parent) == (
        "> **First.**\n>\n> **Second.**\n\n<details><summary>A &amp; &lt;b&gt;</summary>\n\n"
        "![a](figures/a.png)\n\nSeen.\n\n- one\n- two\n\n</details>\n"
    )
