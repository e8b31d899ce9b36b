"""Sections on what the arms cost, and on what has become of the runs."""

from collections.abc import Callable, Mapping

from tst_lightning.comparison.analysis.collect import RunResult
from tst_lightning.comparison.analysis.summary import ArmSummary, ComparisonSummary
from tst_lightning.comparison.reporting.content.cells import NONE, long_table, pictures
from tst_lightning.comparison.reporting.document import Block, Figure, Heading, Marked, Paragraph, Table
from tst_lightning.comparison.running.display import duration

_FLOPS_PLACE = 3
"""Columns before the one that tells the superposed part of the FLOPs."""

_STATUSES = {
    "finished": "finished",
    "diverged": "diverged",
    "unfinished": "not finished",
    "missing": "not started",
    "unreadable": "not readable",
    "dropped": "dropped by halving",
}
"""Status -> its column, in this order."""


def cost_section(summary: ComparisonSummary, colours: Mapping[str, str], figures: Mapping[str, Figure]) -> list[Block]:
    """Tokens, FLOPs and time of each arm."""
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("data tokens", "data_tokens", lambda value: f"{value:,.0f}"),
        ("positions", "positions", lambda value: f"{value:,.0f}"),
        ("FLOPs", "flops", lambda value: f"{value:.4g}"),
        ("training time", "train_seconds", duration),
        ("whole time", "wall_seconds", duration),
        ("positions per second", "positions_per_second", lambda value: f"{value:,.0f}"),
    ]
    rows = []
    for arm in summary.arms.values():
        cells = [NONE if arm.costs[key] is None else show(arm.costs[key]) for _, key, show in columns]
        cells.insert(_FLOPS_PLACE, _superposed(arm))
        rows.append([Marked(arm.arm, colours[arm.arm]), *cells])
    titles = [title for title, _, _ in columns]
    titles.insert(_FLOPS_PLACE, "of them superposed")
    return [
        Heading("What it cost"),
        Paragraph(
            "Means over finished runs. FLOPs are counted from the model's shape, the same per position in every "
            "phase (tst_lightning/accounting.py); those before the switch are superposed. Positions are what the "
            "model's layers compute, data tokens what is read from the corpus. The whole time adds start-up, "
            "validation and evaluation while training, over all restarts; not the evaluation of finished runs, which "
            "is a step of its own."
        ),
        long_table("The costs of all arms", Table(["Arm", *titles], rows)),
        *pictures(figures, "data_tokens"),
    ]


def _superposed(arm: ArmSummary) -> str:
    """FLOPs before the switch; unknown as long as no run has come so far."""
    flops = arm.switch_at("flops")
    if flops is None:
        return NONE if arm.switch_step or not arm.finished else "0"
    return f"{flops:.4g}"


def status_section(summary: ComparisonSummary, colours: Mapping[str, str]) -> list[Block]:
    """What has become of every run; one sentence if all are well."""
    runs = [run for arm in summary.arms.values() for run in arm.runs]
    statuses = {_status(run) for run in runs}
    if statuses <= {"finished"}:
        return [Heading("Runs"), Paragraph(f"All {len(runs):,} runs have finished.")]
    # A status that is not known here is shown under its own name.
    columns = [status for status in _STATUSES if status in statuses] + sorted(statuses - _STATUSES.keys())
    counts = [f"{sum(_status(run) == status for run in runs)} {_STATUSES.get(status, status)}" for status in columns]
    rows = [
        [Marked(arm.arm, colours[arm.arm]), *(_seeds(arm, status) for status in columns)]
        for arm in summary.arms.values()
    ]
    table = Table(["Arm", *(_STATUSES.get(status, status) for status in columns)], rows, text_columns=1 + len(columns))
    return [
        Heading("Runs"),
        Paragraph(f"Of {len(runs):,} runs: {', '.join(counts)}. The table names their seeds."),
        long_table("What has become of the runs", table),
    ]


def _status(run: RunResult) -> str:
    return "diverged" if run.diverged else run.status


def _seeds(arm: ArmSummary, status: str) -> str:
    found = []
    for run in arm.runs:
        if _status(run) != status:
            continue
        note = run.note
        if status == "unfinished" and run.progress.get("step") is not None:
            planned = run.progress.get("max_steps")
            note = f"step {run.progress['step']:,}" + (f" of {planned:,}" if planned else "")
        found.append(f"{run.seed} ({note})" if note else str(run.seed))
    return ", ".join(found) or NONE
