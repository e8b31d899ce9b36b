"""The section on where the numbers come from: commits, machines, versions and commands."""

from collections.abc import Mapping
from typing import Any

from tst_lightning.comparison.analysis.summary import ComparisonSummary
from tst_lightning.comparison.design.experiment import Experiment
from tst_lightning.comparison.reporting.document import Block, Code, Folded, Heading, Notes, Paragraph

_OPEN_COMMANDS = 4


def origin_section(experiment: Experiment, summary: ComparisonSummary, command: str) -> list[Block]:
    """Everything that is needed to do it again; ``command`` makes the report."""
    runs = [run for seed in experiment.seeds for arm in summary.arms.values() for run in arm.runs if run.seed == seed]
    commands = [run.command for run in runs if run.command]
    finished = [run.finished for run in runs if run.finished]
    facts = []
    for label, values in {
        "Commit": [_commit(origin) for origin in finished],
        "Machine": [_machine(origin) for origin in finished],
        "Versions": [
            ", ".join(f"{name} {version}" for name, version in (origin.get("versions") or {}).items())
            for origin in finished
        ],
    }.items():
        facts += [f"{label}: {value}" for value in dict.fromkeys(values) if value]
    code = Code("\n".join(commands) or "(no run has started)")
    many = len(commands) > _OPEN_COMMANDS
    return [
        Heading("Where it comes from"),
        Notes(facts),
        Paragraph("Each run is one command:"),
        Folded(f"The commands of {len(commands):,} runs", [code]) if many else code,
        Paragraph("This report, from the runs' folders:"),
        Code(command),
    ]


def _commit(origin: Mapping[str, Any]) -> str:
    commit = origin.get("commit")
    if not commit:
        return "not a checkout"
    return commit["hash"] + (" with uncommitted changes" if commit["dirty"] else "")


def _machine(origin: Mapping[str, Any]) -> str:
    machine = origin.get("machine")
    if not machine:
        return ""
    gpus = f", {' + '.join(machine['gpus'])}" if machine["gpus"] else ", no GPU"
    return f"{machine['cpu']}, CPUs: {machine['cpus']}{gpus}, CPU threads per run: {origin.get('threads')}"
