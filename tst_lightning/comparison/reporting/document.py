"""A report as a list of blocks, written as Markdown and as one self-contained HTML page.

Blocks hold plain text. Whatever comes from data or configuration is escaped by the renderers, so a name
such as ``<script>`` shows as what it is.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tst_lightning.drawing import DOTS_PER_INCH


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Verdict:
    """What a hurried reader takes away: one or more sentences, and further ones in paragraphs of their own."""

    text: str
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Notes:
    """A list of short remarks; nothing if empty."""

    items: Sequence[str]


@dataclass(frozen=True)
class Marked:
    """A cell with a mark in the colour that its subject has in the pictures."""

    text: str
    colour: str


@dataclass(frozen=True)
class Table:
    """The first columns are text, the others are numbers and right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Marked]]
    text_columns: int = 1


@dataclass(frozen=True)
class Figure:
    path: Path
    """A PNG file below the report's folder."""
    caption: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that a reader opens."""

    summary: str
    blocks: Sequence["Block"]


Block = Heading | Paragraph | Verdict | Notes | Table | Figure | Code | Folded


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Markdown with figures as links relative to ``folder``."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block, folder))) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML page that needs no other file: styles inline, figures embedded."""
    body = "\n".join(text for block in blocks if (text := _html(block)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Verdict(text, more):
            return "\n>\n".join(f"> **{_plain(sentence)}**" for sentence in (text, *more))
        case Notes(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table(header, rows, text_columns):
            rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
            cells = [[_plain(_text(cell)) for cell in row] for row in (header, *rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))
        case Figure(path, caption):
            return f"![{path.stem}]({path.relative_to(folder).as_posix()})\n\n{_plain(caption)}"
        case Code(text):
            longest = max((len(run) for run in re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}\n{text}\n{fence}"
        case Folded(summary, blocks):
            # Markdown has no word of its own for it; a blank line lets Markdown go on inside.
            inside = "\n\n".join(text for inner in blocks if (text := _markdown(inner, folder)))
            return f"<details><summary>{html.escape(summary)}</summary>\n\n{inside}\n\n</details>"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _text(cell: str | Marked) -> str:
    return cell.text if isinstance(cell, Marked) else cell


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Verdict(text, more):
            paragraphs = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in (text, *more))
            return f'<div class="verdict">{paragraphs}</div>'
        case Notes(items):
            entries = "".join(f"<li>{html.escape(item)}</li>" for item in items)
            return f"<ul>{entries}</ul>" if entries else ""
        case Table():
            return _html_table(block)
        case Figure(path, caption):
            image, text = path.read_bytes(), html.escape(caption)
            return (
                f'<figure><div class="scroll"><img alt="{text}" style="--width:{_png_inches(image):.2f}in" '
                f'src="data:image/png;base64,{base64.b64encode(image).decode()}"></div>'
                f"<figcaption>{text}</figcaption></figure>"
            )
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Folded(summary, blocks):
            inside = "\n".join(text for inner in blocks if (text := _html(inner)))
            return f"<details><summary>{html.escape(summary)}</summary>\n{inside}\n</details>"


def _png_inches(image: bytes) -> float:
    """The width at which text in a picture is as large as it was drawn; a PNG file begins with its size."""
    return int.from_bytes(image[16:20], "big") / DOTS_PER_INCH


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str | Marked], tag: str) -> str:
        parts = []
        for column, cell in enumerate(cells):
            kind = ' class="text"' if column < table.text_columns else ""
            mark = ""
            if isinstance(cell, Marked):
                mark = f'<span class="mark" style="border-color:{html.escape(cell.colour)}"></span>'
            parts.append(f"<{tag}{kind}>{mark}{html.escape(_text(cell))}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table><thead>{row(table.header, "th")}</thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1d2329;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 2rem auto; padding: 1.5rem 2.5rem 2.5rem; background: #fff;
  border: 1px solid #e1e5ea; border-radius: 6px; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: .6rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .4rem; border-top: 1px solid #e1e5ea; }
.verdict { margin: 1.2rem 0; padding: .7rem 1.1rem; background: #eef4fa; border-left: 4px solid #0072b2;
  font-size: 1.05rem; }
.verdict p { margin: .35rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #e1e5ea; white-space: nowrap; }
th { border-bottom: 2px solid #9aa5b1; font-weight: 600; vertical-align: bottom; }
.text { text-align: left; }
tbody tr:nth-child(even) { background: #fafbfc; }
.mark { display: inline-block; border: .36em solid; border-radius: 2px; margin-right: .5em; vertical-align: .05em; }
figure { margin: 1.4rem 0; }
img { display: block; width: var(--width); max-width: 100%; height: auto; }
figcaption { color: #4d5763; font-size: .9rem; margin-top: .4rem; }
pre { background: #f6f7f9; border: 1px solid #e1e5ea; border-radius: 4px; padding: .8rem 1rem;
  font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #005a8c; margin: .6rem 0; }
@media (max-width: 45rem) { main { margin: 0; padding: 1rem; border: 0; } h1 { font-size: 1.5rem; }
  ul { padding-left: 1.2rem; } figure img { max-width: none; width: max(100%, calc(.68 * var(--width))); } }
@media print { body { background: #fff; font-size: 10.5pt; } main { border: 0; margin: 0; max-width: none;
  padding: 0; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } th, td { padding: .2rem .35rem; white-space: normal; }
  figure img { width: var(--width); max-width: 100%; } }
"""
