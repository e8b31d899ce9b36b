"""The page of ``tst-lightning inspect``: needs no other file, and shows text from the corpus as what it is."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from tst_lightning.data.inspecting.windows import Decoder, Window, mark


@dataclass(frozen=True)
class Phase:
    """Rows of one bag size."""

    name: str
    bag_size: int
    windows: Sequence[Window]


def inspection_page(
    title: str, facts: Sequence[Sequence[str]], histogram: bytes, phases: Sequence[Phase], decoder: Decoder
) -> str:
    """One HTML page.

    Args:
        title: plain text, as are the cells of ``facts``.
        facts: rows of a table, the first of which is its head.
        histogram: a PNG file.
        phases: rows of the corpus.
        decoder: of their tokens.
    """
    title = html.escape(title)
    image = base64.b64encode(histogram).decode()
    sections = "\n".join(_section(phase, decoder) for phase in phases)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f"{_table(facts)}\n"
        f'<figure><img alt="Lengths of the training documents" src="data:image/png;base64,{image}"></figure>\n'
        f"{sections}\n</main>\n</body>\n</html>\n"
    )


def _table(facts: Sequence[Sequence[str]]) -> str:
    head, *rows = facts
    body = "".join(_cells("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{_cells("th", head)}</thead><tbody>{body}</tbody></table></div>'


def _cells(tag: str, row: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in row)}</tr>"


def _section(phase: Phase, decoder: Decoder) -> str:
    s = phase.bag_size
    tokens = "1 token" if s == 1 else f"{s} tokens"
    windows = "\n".join(_window(window, decoder) for window in phase.windows)
    return (
        f"<h2>{html.escape(phase.name.capitalize())}: {tokens} a position</h2>\n"
        "<p>Each box is a position; thin lines part its tokens. At the position that "
        '<span class="bag reads">reads this</span>, everything up to there is seen and '
        f'<span class="bag target">{"this" if s == 1 else "all of this"}</span> is predicted.</p>\n{windows}'
    )


def _window(window: Window, decoder: Decoder) -> str:
    roles = {window.position: "reads", window.position + 1: "target"}
    bags = (
        _bag(place, ids, roles.get(place, "odd" if place % 2 else "even"), decoder)
        for place, ids in enumerate(window.bags.tolist())
    )
    where = f"{window.shard}, tokens {window.first_token:,} to {window.first_token + window.bags.size - 1:,}"
    return f'<h3>{html.escape(where)}</h3>\n<div class="row">{"<wbr>".join(bags)}</div>'


def _bag(place: int, ids: list[int], kind: str, decoder: Decoder) -> str:
    tokens = "".join(_token(token_id, decoder) for token_id in ids)
    return f'<span class="bag {kind}" title="position {place}: {" ".join(map(str, ids))}">{tokens}</span>'


def _token(token_id: int, decoder: Decoder) -> str:
    text = decoder.text(token_id)
    if token_id in decoder.special_ids:
        return f"<b>{html.escape(text)}</b>"
    shown = "".join(html.escape(c) if mark(c) is None else f"<u>{html.escape(mark(c))}</u>" for c in text)
    return f"<i>{shown}</i>"


_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --paper: #fff; --ink: #1d2329; --quiet: #5b6672;
  --line: #d9dee4; --even: #f0f2f5; --odd: #cfe0f0; --mark: #6f7a86; --thin: #a9b4bf;
  --reads: #0072b2; --target: #b34f00; --end: #00795a; --on: #fff; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --paper: #1c2024; --ink: #e4e8ec;
  --quiet: #a3adb8; --line: #363d45; --even: #272c32; --odd: #2f4963; --mark: #93a0ad; --thin: #66727e;
  --reads: #56b4e9; --target: #e69f00; --end: #3fc79a; --on: #14171a; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 2rem auto; padding: 1.5rem 2.5rem 2.5rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: 6px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .6rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .4rem; border-top: 1px solid var(--line); }
h3 { font-size: .9rem; font-weight: 500; color: var(--quiet); margin: 1.6rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.4rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.row { font: .84rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.bag { border-radius: 3px; padding: .1rem .15rem; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; }
.even { background: var(--even); }
.odd { background: var(--odd); }
.reads { background: var(--reads); color: var(--on); }
.target { background: var(--target); color: var(--on); }
i { font-style: normal; }
i + i, i + b, b + i { border-left: 1px solid var(--thin); }
u { text-decoration: none; color: var(--mark); }
.reads u, .target u { color: inherit; opacity: .7; }
b { color: var(--end); }
.reads b, .target b { color: inherit; }
@media (max-width: 45rem) { main { margin: 0; padding: 1rem; border: 0; } }
"""
