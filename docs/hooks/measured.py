"""Puts measured results into a page when the site is built.

A line ``<!-- measured: ARM, ARM -->`` becomes a table with a row for each of these arms of the comparison in
``results/methods_books/report.json``: its difference to what it is compared with, and what that shows.
``<!-- measured: NAME: ARM -->`` reads ``results/NAME/report.json`` instead. What is not there is said to be not
measured yet.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tst_lightning.comparison.reporting.sentences import headline_scores

COMPARISON = "methods_books"
MARKER = re.compile(r"^<!-- measured: (?:(?P<comparison>\w+): )?(?P<arms>[^:>]+?) -->$", re.M)

COLUMNS = ("Arm", "against", "difference, nats per token", "verdict")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """MkDocs' event: a page's text before it is turned into HTML."""
    results = Path(config["config_file_path"]).parent / "results"
    return MARKER.sub(lambda found: measured(results, found["comparison"] or COMPARISON, arms_of(found)), markdown)


def arms_of(found: re.Match[str]) -> list[str]:
    """Names of the arms in a marker."""
    return [arm.strip() for arm in found["arms"].split(",")]


def measured(results: Path, comparison: str, arms: list[str]) -> str:
    """Markdown for these arms: a table, and what it was read from.

    Args:
        results: folder of the comparisons' reports.
        comparison: name of one.
        arms: names of its arms.
    """
    path = results / comparison / "report.json"
    report = json.loads(path.read_text()) if path.is_file() else {}
    pairs = [pair for arm in arms for pair in report.get("pairs", []) if pair["arm"] == arm]
    known = {pair["arm"] for pair in pairs}
    missing = [f"`{arm}`" for arm in arms if arm not in known]
    blocks = []
    if pairs:
        lines = [COLUMNS, ("---",) * len(COLUMNS), *map(row, pairs)]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        blocks.append(origin(comparison, report))
    if missing:
        blocks.append(f"Not measured yet in the comparison `{comparison}`: {', '.join(missing)}.")
    return "\n\n".join(blocks)


def row(pair: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one arm against one reference."""
    names = f"`{pair['arm']}`", f"`{pair['reference']}`, {pair['budget']}"
    difference = pair["difference"]
    if difference is None:
        why = f"not compared: {pair['not_compared']}" if pair["not_compared"] else "no finished pair of runs"
        return *names, "", why
    size = f"{difference['mean']:+.3f}"
    if difference["low"] is not None:
        size += f" ± {(difference['high'] - difference['low']) / 2:.3f}"
    seeds = "1 seed" if difference["n"] == 1 else f"{difference['n']} seeds"
    return *names, f"{size} ({seeds})", "; ".join(filter(None, [verdict(pair), downstream(pair["scores"])]))


def verdict(pair: dict[str, Any]) -> str:
    """What a difference of losses shows, in words."""
    difference = pair["difference"]
    if difference["n"] == 1:
        return "one seed shows nothing"
    p = "" if difference["p_holm"] is None else f" (p = {difference['p_holm']:.2g})"
    if not pair["is_shown"]:
        return f"a difference is not shown{p}"
    return f"{'lower' if difference['mean'] < 0 else 'higher'} loss, shown{p}"


def downstream(scores: list[dict[str, Any]]) -> str:
    """Scores that are shown to differ, with the size of it, and the names of the others."""
    headline = headline_scores([SimpleNamespace(**score) for score in scores])
    shown = [f"{score.task} {score.over_seeds['mean']:+.3f}" for score in headline if score.is_shown]
    others = [score.task for score in headline if not score.is_shown]
    if others:
        shown.append(f"no difference shown on {', '.join(others)}")
    return "; ".join(shown).replace("_", "\\_")


def origin(comparison: str, report: dict[str, Any]) -> str:
    """What was compared, where the numbers are from, and how to read them."""
    experiment = report["experiment"]
    return (
        f"*{experiment['title'] or comparison}*: {experiment['description']} From `results/{comparison}/report.json`, "
        f"{report['created'][:10]}. Next-token validation loss, lower is better; differences are paired by seed, ± is "
        "half of the 95 % interval (Student t), p is Holm-corrected over the comparison's pairs."
    )
