"""Whatever comes from data or configuration shows as text: it makes no element, attribute, link or Markdown."""

import html.parser
import re
from pathlib import Path

import pytest

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Experiment, run_folder
from tst_lightning.comparison.reporting.document import (
    Code,
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

EVIL = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>", "' onmouseover='alert(1)", "<!-- x", "&lt;script&gt;", "javascript:alert(1)",
    "[a](javascript:alert(1))", "![a](http://x/y.png)", "a | b | c", "`x` **y** _z_ # h", "```\n<script>", "<details>",
    "\u202e<b>", "x\n\n# heading\n\n<script>",
]  # fmt: skip


class Elements(html.parser.HTMLParser):
    """Collects elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_data(self, data):
        self.text += data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def blocks(text: str) -> list:
    return [
        Heading(text, 1), Heading(text), Paragraph(text), Verdict(text, [text]), Notes([text]), Code(text),
        Table([text, text], [[text, Marked(text, "#123456")]]), Folded(text, [Paragraph(text), Code(text)]),
    ]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_html_has_the_same_elements_whatever_the_text(evil):
    plain, tried = (parsed(to_html(blocks(text), text)) for text in ("text", evil))
    assert tried.found == plain.found
    assert tried.text.count(evil) >= 8


def test_a_colour_stays_within_its_attribute():
    page = to_html([Table(["a"], [[Marked("x", '"><script>alert(1)</script>')]])], "t")
    assert "script" not in [tag for tag, _ in parsed(page).found]


@pytest.mark.parametrize("evil", EVIL)
def test_markdown_shows_the_text(evil, tmp_path):
    """As the site's own Markdown renders it, raw HTML allowed: the same elements, but for those of code's content."""
    import markdown

    def render(text: str) -> list:
        return parsed(
            markdown.markdown(to_markdown(blocks(text)[:-1], tmp_path), extensions=["tables", "fenced_code"])
        ).found

    assert render(evil) == render("text")


def test_a_page_of_corpus_rows():
    """Tokens are the corpus' own text."""
    import numpy as np

    from tst_lightning.data.inspecting.page import Phase, inspection_page
    from tst_lightning.data.inspecting.windows import Window

    class Decoder:
        special_ids = frozenset({1})

        def __init__(self, texts):
            self.texts = texts

        def text(self, token_id):
            return self.texts[token_id % len(self.texts)]

    def page(texts: list[str], title: str) -> Elements:
        window = Window(f"{title}.bin", 0, np.arange(8).reshape(4, 2), 1)
        phases = [Phase(title, 2, [window])]
        return parsed(inspection_page(title, [[title, title], [title, title]], b"png", phases, Decoder(texts)))

    plain = page(["a", "b", "c"], "title")
    for evil in EVIL:
        # Marks of what has no shape of its own, elements `u`, are ours.
        single = re.sub(r"\s", "", evil)
        found = [element for element in page(["a", single, "c"], single).found if element[0] != "u"]
        assert found == plain.found


@pytest.fixture
def evil_comparison(tmp_path) -> Path:
    """A comparison whose every text is hostile; names of arms are refused unless they are folder names."""
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(1)> | [a](javascript:x)'
    references = {"baseline": (), "tst": ("baseline",)}
    overlay = Overlay([], {"data.note": hostile})
    arms = {name: Arm(name, name, overlay, {"s": hostile}, references=others) for name, others in references.items()}
    experiment = Experiment(hostile, tmp_path / "results", (1,), Overlay(), arms, "baseline", hostile, hostile)
    experiment.save()
    for name in arms:
        folder = run_folder(experiment.output_dir, name, 1)
        folder.mkdir(parents=True)
        (folder / "command.txt").write_text(f"tst-lightning fit '{hostile}'\n")
        (folder / "config.yaml").write_text(f"trainer: {{max_steps: '{hostile}'}}\ndata: {{data_dir: '{hostile}'}}\n")
        (folder / "log.txt").write_text(f"error: {hostile}\n")
        (folder / "progress.json").write_text('{"step": "<script>", "max_steps": 2, "val_loss": 1.0}')
    return experiment.output_dir


def test_a_report_of_hostile_texts(evil_comparison, capsys):
    from tst_lightning import cli

    status = cli.main(["report", str(evil_comparison)])
    assert status == 0, capsys.readouterr().err
    page = parsed((evil_comparison / "report.html").read_text())
    assert {tag for tag, _ in page.found} & {"script", "iframe", "a", "svg", "object"} == set()
    assert not [name for _, names in page.found for name in names if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text, "the title shows as what it is"
    markdown_text = (evil_comparison / "report.md").read_text()
    outside_code = re.sub(r"(?s)```.*?```", "", markdown_text)
    assert not re.search(r"(?<!\\)<script", outside_code)


def test_commands_that_are_shown_are_quoted(tmp_path):
    """What a user copies into a shell is one command, whatever the names in it."""
    import shlex

    arms = {"a": Arm("a", "a", Overlay([], {"data.data_dir": "x; rm -rf ~ $(id) `id` 'y'"}))}
    experiment = Experiment("e", tmp_path / "a b; c", (1,), Overlay(), arms, "a")
    (run,) = experiment.runs()
    assert shlex.split(run.command) == ["tst-lightning", *run.arguments]
    assert "x; rm -rf ~ $(id) `id` 'y'" in "".join(shlex.split(run.command))


def test_figures_are_pictures_without_text_that_is_read():
    """A PNG holds no markup; a report with SVG would have to escape what is written into it."""
    sources = (Path(__file__).parents[2] / "tst_lightning").rglob("*.py")
    assert not [path.name for path in sources if re.search(r"format=[\"']svg|\.svg[\"']", path.read_text())]
