"""``against-OTHER.html``, ``.md`` and ``.json`` in a results folder, and what the terminal shows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tst_lightning.comparison.against.compare import Against, ArmAgainst, compare_folders
from tst_lightning.comparison.against.content import effect_rows, loss_rows, page_blocks
from tst_lightning.comparison.against.figures import draw_figures
from tst_lightning.comparison.against.reported import Reported, ReportedArm, read_reported
from tst_lightning.comparison.against.sentences import cautions, labels, machines, verdict
from tst_lightning.comparison.reporting.document import to_html, to_markdown
from tst_lightning.comparison.reporting.plain import aligned, finite
from tst_lightning.comparison.running.folder import now_utc
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

FORMAT_VERSION = 1


def write_against(output_dir: Path, other_dir: Path) -> str:
    """Compare two results folders by their ``report.json``, which are left as they are.

    Returns:
        What to show in the terminal: the verdict, tables, and where the files are.

    Raises:
        UserError: a report is missing or not readable, nothing in the two is comparable, or the folder cannot be
            written.
    """
    output_dir, other_dir = Path(output_dir), Path(other_dir)
    if output_dir.resolve() == other_dir.resolve():
        raise UserError(f"'{output_dir}' cannot be compared with itself: give another results folder to --against")
    against = compare_folders(read_reported(output_dir), read_reported(other_dir))
    stem = f"against-{other_dir.resolve().name}"
    names = [f"{stem}.{ending}" for ending in ("html", "md", "json")]
    try:
        blocks = page_blocks(against, draw_figures(against, output_dir / "figures"))
        write_atomically(output_dir / names[2], _to_json(against))
        write_atomically(output_dir / names[1], to_markdown(blocks, output_dir))
        write_atomically(output_dir / names[0], to_html(blocks, " against ".join(labels(against))))
    except OSError as error:
        raise UserError(
            f"the comparison cannot be written to '{output_dir}' ({error.strerror or error}): "
            "make room or make it writable, then give the command again"
        ) from error
    return _terminal_summary(against, [output_dir / name for name in names])


def _terminal_summary(against: Against, files: list[Path]) -> str:
    parts = [verdict(against)]
    notes = cautions(against, labels(against))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts.append("Final validation loss\n" + aligned(loss_rows(against)))
    if against.effects:
        parts.append("Effects, paired by seed within each folder\n" + aligned(effect_rows(against)))
    parts.append("\n".join(f"  {path}" for path in files))
    return "\n\n".join(parts)


def _to_json(against: Against) -> str:
    """Every number of the page."""
    values = {
        "format_version": FORMAT_VERSION,
        "created": now_utc(),
        "here": _folder_values(against.here),
        "there": _folder_values(against.there),
        "verdict": verdict(against),
        "arms": {arm.name: _arm_values(arm) for arm in against.arms},
        "effects": [asdict(effect) | {"outcome": effect.outcome} for effect in against.effects],
        "only_here": against.only_here,
        "only_there": against.only_there,
    }
    return json.dumps(finite(values), indent=1, allow_nan=False) + "\n"


def _folder_values(reported: Reported) -> dict[str, Any]:
    return {"folder": str(reported.folder), "created": reported.created, "machines": machines(reported)}


def _arm_values(arm: ArmAgainst) -> dict[str, Any]:
    values = asdict(arm)
    return values | {side: _side_values(getattr(arm, side)) for side in ("here", "there")}


def _side_values(arm: ReportedArm) -> dict[str, Any]:
    kept = ("name", "method", "variant", "max_steps", "losses", "diverged", "unfinished", "costs")
    return {name: getattr(arm, name) for name in kept}
