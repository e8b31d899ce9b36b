"""`tst-lightning compare` and `tst-lightning report`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tst_lightning.comparison.arms import Overlay, plain_arms
from tst_lightning.comparison.experiment import Experiment, Run
from tst_lightning.errors import UserError
from tst_lightning.files import require_writable


def compare(
    name: str,
    output_dir: str,
    seeds: list[int],
    arms: dict[str, Overlay],
    baseline: str,
    base: Overlay | None = None,
    jobs: int = 1,
    threads_per_job: int | None = None,
    prepare: list[str] | None = None,
    title: str = "",
    description: str = "",
) -> None:
    """Train every arm with every seed, then report.

    Each run is one `tst-lightning fit` command, kept in `OUTPUT_DIR/runs/ARM/seed_N/command.txt`. The same
    command given again skips the runs that are finished and resumes those that were interrupted. The
    results are `report.html`, `report.md`, `report.json` and `figures/` in the output folder.

    Args:
        name: Short name of the experiment.
        output_dir: Folder of the runs and the report.
        seeds: One run per arm and seed. A seed fixes the initial weights and the order of the data, so the
            arms of a seed start alike and are compared in pairs.
        arms: Name of an arm -> what it lays over `base`: `configs` (YAML files of `fit`) and `overrides`
            (dotted keys of `fit` and their values).
        baseline: The arm that the others are compared with.
        base: `configs` and `overrides` that all arms share.
        jobs: Runs at a time. All arms of a seed are started before those of the next, so arms that train
            side by side share the load of the machine and their times can be compared.
        threads_per_job: CPU threads of each run; the CPUs shared out among the jobs by default.
        prepare: Configs of `tst-lightning prepare` to run first; data that are there are left alone.
        title: Heading of the report; the name by default.
        description: A paragraph for the report.

    Raises:
        UserError: something is wrong with the experiment (before any run), or runs have failed (after all).
    """
    experiment = Experiment(
        name, Path(output_dir), tuple(seeds), base or Overlay(), plain_arms(arms, baseline), baseline,
        title, description,
    )  # fmt: skip
    experiment.validate()
    prepare = prepare or []
    threads = _threads(jobs, threads_per_job)
    _check_prepare(prepare)
    runs = experiment.runs()
    _check_commands(experiment, runs)
    run_experiment(experiment, runs, jobs, threads, prepare)


def report(output_dir: str) -> None:
    """Rebuild the report of a comparison from its runs' folders.

    Works while runs are missing or unfinished, and says which.

    Args:
        output_dir: The `output_dir` of a `tst-lightning compare`.

    Raises:
        UserError: the folder holds no comparison.
    """
    from tst_lightning.comparison.report import write_report

    print(write_report(Path(output_dir)))


def run_experiment(
    experiment: Experiment,
    runs: Sequence[Run],
    jobs: int,
    threads: int,
    prepare: Sequence[str] = (),
    program: Sequence[str] | None = None,
) -> None:
    """Run what is not finished, then report; ``program`` stands for what runs ``fit`` and ``prepare``."""
    from tst_lightning.comparison.folder import check_identity
    from tst_lightning.comparison.lock import exclusive
    from tst_lightning.comparison.processes import FIT_PROGRAM
    from tst_lightning.comparison.report import write_report
    from tst_lightning.comparison.runner import Interrupted, Runner, failure_message

    program = FIT_PROGRAM if program is None else program
    require_writable(experiment.output_dir, "output_dir")
    with exclusive(experiment.output_dir):
        check_identity(list(runs))
        experiment.save()
        _prepare(prepare, program)
        runner = Runner(runs, jobs, threads, program)
        try:
            failed = runner.run()
        except Interrupted as interruption:
            print(
                f"stopped by {interruption}: give the same command again to go on; finished runs are kept, "
                "interrupted ones resume from their last checkpoint",
                file=sys.stderr,
            )
            sys.exit(128 + interruption.signal_number)
        print(write_report(experiment.output_dir))
    if failed:
        raise UserError(failure_message(failed))


def _threads(jobs: int, threads_per_job: int | None) -> int:
    from tst_lightning.cores import available_cores

    if jobs < 1:
        raise UserError(f"jobs is {jobs}: give 1 or more runs at a time")
    if threads_per_job is None:
        return max(1, available_cores() // jobs)
    if threads_per_job < 1:
        raise UserError(f"threads_per_job is {threads_per_job}: give 1 or more")
    return threads_per_job


def _check_prepare(prepare: Sequence[str]) -> None:
    for path in prepare:
        if not Path(path).is_file():
            raise UserError(f"there is no prepare config '{path}' (paths are relative to the current folder)")


def _check_commands(experiment: Experiment, runs: Sequence[Run]) -> None:
    """Let `fit` parse each arm's command, so that an unknown key stops now and not after hours."""
    from tst_lightning.lightning_cli import parse_fit

    for run in runs:
        if run.seed != experiment.seeds[0]:
            continue
        try:
            parse_fit(run.arguments[1:])
        except UserError as error:
            raise UserError(f"arm '{run.arm}': {error}\n  its command: {run.command}") from error


def _prepare(prepare: Sequence[str], program: Sequence[str]) -> None:
    for path in prepare:
        done = subprocess.run([*program, "prepare", "--config", path], check=False)
        if done.returncode != 0:
            raise UserError(
                f"`tst-lightning prepare --config {path}` failed with exit code {done.returncode} (see above)"
            )
