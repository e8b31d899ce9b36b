"""How a plan's text is laid out: paragraphs with a title, tables, short numbers, flags to paste."""

import textwrap
from collections.abc import Sequence

WIDTH = 100
INDENT = 14


def paragraph(title: str, content: Sequence[str]) -> str:
    """Lines of text below one another, wrapped, beside a title."""
    wrapped = [
        piece
        for line in content
        for piece in textwrap.wrap(line, WIDTH - INDENT, subsequent_indent="  " if line.startswith("- ") else "")
    ]
    return "\n".join(f"{title if number == 0 else '':<{INDENT}}{line}" for number, line in enumerate(wrapped))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], INDENT)
    texts = (
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in texts)


def count_text(number: int) -> str:
    """In short scale with three digits: ``1.05 T``."""
    return _scaled(number, ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")))


def byte_count(number: int) -> str:
    """In powers of ten, as datasheets do: ``1.05 GB``."""
    return _scaled(number, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"))) + ("" if number >= 1e3 else " B")


def _scaled(number: int, units: Sequence[tuple[float, str]]) -> str:
    for scale, unit in units:
        if number >= 0.9995 * scale:
            value = number / scale
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:,.{digits}f}{unit}"
    return f"{number:,}"


def device_hours(hours: float) -> str:
    """Two digits, or as many as a whole number has."""
    return f"{hours:,.2g}" if hours < 10 else f"{hours:,.0f}"


def duration(seconds: float) -> str:
    """``36 s``, ``12 min``, ``3.4 h`` or ``12 days``."""
    for limit, scale, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def pasted(flags: Sequence[str], indent: str) -> list[str]:
    """Flags as lines of a shell's command, which go on in the next line."""
    rows = [""]
    for flag in flags:
        if rows[-1] and len(indent) + len(rows[-1]) + len(flag) + 3 > WIDTH:
            rows.append("")
        rows[-1] += f" {flag}" if rows[-1] else flag
    return [f"{indent}{row}" + (" \\" if row is not rows[-1] else "") for row in rows]
