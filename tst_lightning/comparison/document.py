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


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Verdict:
    """The sentence that a hurried reader takes away."""

    text: str


@dataclass(frozen=True)
class Notes:
    """A list of short remarks; nothing if empty."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers and right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    path: Path
    """A PNG file below the report's folder."""
    caption: str


@dataclass(frozen=True)
class Code:
    text: str


Block = Heading | Paragraph | Verdict | Notes | Table | Figure | Code


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
        case Verdict(text):
            return f"> **{_plain(text)}**"
        case Notes(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table(header, rows):
            lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
            cells = [[_plain(cell) for cell in row] for row in (header, *rows)]
            lines = [cells[0], lines[1], *cells[1:]]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(path, caption):
            return f"![{path.stem}]({path.relative_to(folder).as_posix()})\n\n{_plain(caption)}"
        case Code(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Verdict(text):
            return f'<p class="verdict">{html.escape(text)}</p>'
        case Notes(items):
            entries = "".join(f"<li>{html.escape(item)}</li>" for item in items)
            return f"<ul>{entries}</ul>" if entries else ""
        case Table(header, rows):
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            lines = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return (
                '<div class="scroll"><table><thead><tr>'
                f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
            )
        case Figure(path, caption):
            image = base64.b64encode(path.read_bytes()).decode()
            text = html.escape(caption)
            return (
                f'<figure><img alt="{text}" src="data:image/png;base64,{image}">'
                f"<figcaption>{text}</figcaption></figure>"
            )
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1d2329;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 60rem; margin: 2rem auto; padding: 1.5rem 2.5rem 2.5rem; background: #fff;
  border: 1px solid #e1e5ea; border-radius: 6px; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: .6rem 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .4rem; border-top: 1px solid #e1e5ea; }
.verdict { margin: 1.2rem 0; padding: .8rem 1.1rem; background: #eef4fa; border-left: 4px solid #0072b2;
  font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #e1e5ea; white-space: nowrap; }
th { border-bottom: 2px solid #9aa5b1; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(even) { background: #fafbfc; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #4d5763; font-size: .9rem; }
pre { background: #f6f7f9; border: 1px solid #e1e5ea; border-radius: 4px; padding: .8rem 1rem;
  font-size: .82rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 45rem) { main { margin: 0; padding: 1rem; border: 0; } }
@media print { body { background: #fff; font-size: 11pt; } main { border: 0; margin: 0; max-width: none;
  padding: 0; } figure, table, pre { break-inside: avoid; } h2 { break-after: avoid; } }
"""
