"""`tst-lightning compare` and `tst-lightning report`."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tst_lightning.comparison.design.arms import ArmSpec, Overlay
from tst_lightning.comparison.design.comparability import require_comparable
from tst_lightning.comparison.design.expansion import Planner, expand
from tst_lightning.comparison.design.experiment import PROGRAM, Experiment, Run, Vary, run_folder, seed_problems
from tst_lightning.comparison.design.planned import PlannedRun, require_final_validation, require_tables
from tst_lightning.comparison.design.scoring import EvaluationSpec
from tst_lightning.comparison.design.selection import selected
from tst_lightning.comparison.design.specification import Specification
from tst_lightning.errors import UserError
from tst_lightning.files import require_writable


def compare(
    name: str,
    output_dir: str,
    seeds: list[int],
    arms: dict[str, ArmSpec],
    baseline: str,
    base: Overlay | None = None,
    variants: dict[str, Overlay] | None = None,
    lengths: list[int] | None = None,
    branch: list[str] | None = None,
    halving: float | None = None,
    evaluation: EvaluationSpec | None = None,
    vary: Vary = "both",
    only: str | list[str] | None = None,
    budget_hours: float | None = None,
    max_arms_at_once: int = 1,
    threads_per_arm: int | None = None,
    prepare: list[str] | None = None,
    title: str = "",
    description: str = "",
) -> None:
    """Train every arm with every seed, then report.

    Each run is one `tst-lightning fit` command, kept in `OUTPUT_DIR/runs/ARM/seed_N/command.txt`. The same
    command given again skips the runs that are finished and resumes those that were interrupted. The
    results are `report.html`, `report.md`, `report.json` and `figures/` in the output folder.

    Runs are started in this order: seeds, variants, lengths, arms, each as in the file. Put first what should be
    known first. Before the first run all commands are parsed, and arms that are to be compared but differ in
    model, validation text, tokenizer, evaluation settings or precision are refused.

    Args:
        name: Short name of the experiment.
        output_dir: Folder of the runs and the report.
        seeds: One run per arm and seed. A seed fixes the initial weights and the order of the data, so the
            arms of a seed start alike and are compared in pairs.
        arms: Name of an arm -> what it lays over `base`: `configs` (YAML files of `fit`) and `overrides`
            (dotted keys of `fit` and their values). With a `grid`, for example `{s: [4, 8], r: [0.3]}`, an arm
            named `tst_s{s}_r{r}` stands for one per combination. `lengths` restricts it to some of the
            experiment's. With `equal_data_with: ARM` it is a second baseline for that arm, with as many steps as
            read the same number of tokens. With `equal_flops_with: ARM` it has as many steps as cost the same.
            With `compare_with: [ARM]` it is compared with these beside the baseline.
        baseline: The arm that the others are compared with, at the same length and in the same variant.
        base: `configs` and `overrides` that all arms share.
        variants: Name -> `configs` and `overrides` laid over `base` before an arm's own, for example one per
            tokenizer or model. Every arm is trained in each; comparisons stay within a variant.
        lengths: Numbers of optimizer steps. Every arm is trained at each, with that `trainer.max_steps`.
        branch: Arms (patterns as of a shell, on their names in `arms` with the grid's values) of which only the
            longest run is trained whole. The shorter ones branch off it where their own learning-rate decay begins,
            and end as if trained whole. Needs the Warmup-Stable-Decay schedule, and a switch, if there is one, at a
            fixed `recovery_step`.
        halving: Share of the arms that go on from each of the `lengths` to the next, for example 0.5; the baseline
            always does. All of them by default.
        evaluation: lm-eval `tasks` on the finished runs of all arms, or of `arms`.
        vary: What a seed changes: `both`, or `initialisation` or `data_order` alone; the other then stays that of
            the first seed in all runs.
        only: Run only these arms (patterns as of a shell, on names of arms with or without their variant and
            length; several with spaces or commas between them) and what they are compared with or branch off.
            The report lists the others as not started.
        budget_hours: Start no run that would end later than this.
        max_arms_at_once: Runs at a time. All arms of a seed are started before those of the next, so arms that
            train side by side share the load of the machine and their times can be compared.
        threads_per_arm: CPU threads of each run, or of each device of a run that has several; by default the CPUs are
            shared out.
        prepare: Configs of `tst-lightning prepare` to run first; data that are there are left alone.
        title: Heading of the report; the name by default.
        description: A paragraph for the report.

    Raises:
        UserError: something is wrong with the experiment (before any run), or runs have failed (after all).
    """
    from tst_lightning.comparison.design.planned import planned_run

    specification = Specification(
        arms, baseline, base or Overlay(), variants or {}, tuple(lengths or ()), tuple(branch or ())
    )
    experiment = specified_experiment(
        name, output_dir, seeds, specification, planned_run,
        title=title, description=description, vary=vary, halving=halving, evaluation=evaluation,
    )  # fmt: skip
    prepare = prepare or []
    _check_side_by_side(max_arms_at_once, threads_per_arm)
    _check_prepare(prepare)
    patterns = [pattern.strip() for pattern in only.split(",")] if isinstance(only, str) else only
    names = list(experiment.arms) if patterns is None else selected(experiment.arms, patterns)
    runs = [run for run in experiment.runs() if run.arm in names]
    plans = _plans(experiment, runs, planned_run)
    require_final_validation(plans)
    require_comparable(
        {arm: plan.config for arm, plan in plans.items()}, [pair for pair in experiment.pairs() if {*pair} <= {*plans}]
    )
    require_tables(plans)
    _require_own_gpus(max_arms_at_once, plans)
    threads = threads_per_arm or _threads(max_arms_at_once, plans)
    runs = [replace(run, steps=plans[run.arm].max_steps) if run.steps is None else run for run in runs]
    run_experiment(experiment, runs, max_arms_at_once, threads, prepare, budget_hours=budget_hours)


def specified_experiment(
    name: str, output_dir: str, seeds: Sequence[int], specification: Specification, plan: Planner, **options: Any
) -> Experiment:
    """The experiment with all its arms, checked as far as that goes without parsing every command.

    Args:
        name: see ``compare``, as for all but the following.
        plan: from the arguments of a `fit` to what it plans.
        options: further fields of ``Experiment``.

    Raises:
        UserError: naming every problem found.
    """
    problems = [*seed_problems(tuple(seeds)), *specification.problems()]
    if problems:
        raise UserError(f"experiment '{name}': " + "\n  ".join(problems))
    arms = expand(specification, plan)
    experiment = Experiment(
        name, Path(output_dir), tuple(seeds), specification.base, arms, specification.baseline, **options
    )
    experiment.validate()
    return experiment


def report(output_dir: str, against: str | None = None, paper_curves: str | None = None) -> None:
    """Rebuild the report of a comparison from its runs' folders, or lay two comparisons beside each other.

    Works while runs are missing or unfinished, and says which. With `--against`, two comparisons are laid beside
    each other instead, from the `report.json` of both, which stay as they are; no runs are needed.

    Args:
        output_dir: The `output_dir` of a `tst-lightning compare`.
        against: Another such folder: do the arms that both have end at the same loss, and do effects replicate?
            Writes `against-OTHER.html`, `.md` and `.json` into `output_dir`.
        paper_curves: Folder of published losses, drawn in grey beside the comparison's own over bag size and ratio:
            files `loss_grid_*.csv` with the columns `step_ratio`, `bag_size` and `final_loss`, bag size 1 being the
            baseline.

    Raises:
        UserError: the folder holds no comparison, nothing in it is comparable with the other, or `paper_curves`
            holds no losses.
    """
    if against is not None and paper_curves is not None:
        raise UserError("--paper_curves is for the report of one comparison: leave it out beside --against")
    if against is not None:
        from tst_lightning.comparison.against.report import write_against

        print(write_against(Path(output_dir), Path(against)))
        return
    from tst_lightning.comparison.reporting.report import write_report

    print(write_report(Path(output_dir), paper_curves))


def run_experiment(
    experiment: Experiment,
    runs: Sequence[Run],
    max_arms_at_once: int,
    threads_per_arm: int,
    prepare: Sequence[str] = (),
    program: Sequence[str] | None = None,
    *,
    budget_hours: float | None = None,
) -> None:
    """Run what is not finished, then report; ``program`` stands for `tst-lightning` itself."""
    from tst_lightning.comparison.design.halving import Halving
    from tst_lightning.comparison.reporting.report import write_report
    from tst_lightning.comparison.running.budget import Budget
    from tst_lightning.comparison.running.folder import COMMAND_FILE, check_identity, claim_ahead, take_over
    from tst_lightning.comparison.running.lock import exclusive
    from tst_lightning.comparison.running.processes import FIT_PROGRAM
    from tst_lightning.comparison.running.runner import Interrupted, Runner, failure_message, left_message

    program = FIT_PROGRAM if program is None else program
    budget = Budget(budget_hours)
    arms = {run.arm: experiment.arms[run.arm] for run in runs}
    halving = experiment.halving and Halving(experiment.output_dir, arms, experiment.baseline, experiment.halving)
    require_writable(experiment.output_dir, "output_dir")
    with exclusive(experiment.output_dir):
        check_identity(experiment.runs())  # all: the report shows those that are not selected too
        for run in take_over(runs):
            print(f"{run.label}: trained by its command, without this one: taken as finished", file=sys.stderr)
        runner = Runner(
            runs, max_arms_at_once, threads_per_arm, program,
            arms=arms, budget=budget, halving=halving, evaluation=experiment.evaluation,
        )  # fmt: skip
        experiment.save()
        _prepare(prepare, program)
        # Of an experiment with halving it is not known yet which of the longer runs there will be.
        claimed = claim_ahead([run for run in runs if not halving or halving.may_run(run.arm)])
        if claimed:
            where = run_folder(experiment.output_dir, "ARM", "N") / COMMAND_FILE
            print(f"the commands of {claimed} runs that have not begun are in {where}", file=sys.stderr)
        try:
            outcome = runner.run()
        except Interrupted as interruption:
            print(
                f"stopped by {interruption}: give the same command again to go on; finished runs are kept, "
                "interrupted ones resume from their last checkpoint",
                file=sys.stderr,
            )
            sys.exit(128 + interruption.signal_number)
        print(write_report(experiment.output_dir))
    if outcome.left:
        print(left_message(outcome.left, shlex.join([PROGRAM, *sys.argv[1:]])))
    if outcome.failures:
        raise UserError(failure_message(outcome.failures))


def _check_side_by_side(max_arms_at_once: int, threads_per_arm: int | None) -> None:
    if max_arms_at_once < 1:
        raise UserError(f"max_arms_at_once is {max_arms_at_once}: give 1 or more runs at a time")
    if threads_per_arm is not None and threads_per_arm < 1:
        raise UserError(f"threads_per_arm is {threads_per_arm}: give 1 or more")


def _threads(max_arms_at_once: int, plans: Mapping[str, PlannedRun]) -> int:
    """CPU threads of each process, if the user leaves it open."""
    from tst_lightning.cores import available_cores

    return max(1, available_cores() // (max_arms_at_once * max(plan.devices for plan in plans.values())))


def _require_own_gpus(max_arms_at_once: int, plans: Mapping[str, PlannedRun]) -> None:
    on_gpu = [arm for arm, plan in plans.items() if plan.on_gpu]
    if max_arms_at_once > 1 and on_gpu:
        raise UserError(
            f"max_arms_at_once is {max_arms_at_once}, and arm '{on_gpu[0]}' trains on a GPU, which all runs at a time "
            "would share, beginning with the first: set max_arms_at_once to 1"
        )


def _check_prepare(prepare: Sequence[str]) -> None:
    for path in prepare:
        if not Path(path).is_file():
            raise UserError(f"there is no prepare config '{path}' (paths are relative to the current folder)")


def _plans(experiment: Experiment, runs: Sequence[Run], plan: Planner) -> dict[str, PlannedRun]:
    """What each arm plans. Its command is parsed for that, so that an unknown key stops now and not after hours."""
    plans = {}
    for run in runs:
        if run.seed != experiment.seeds[0]:
            continue
        try:
            plans[run.arm] = plan(plannable_arguments(run))
        except UserError as error:
            raise UserError(f"arm '{run.arm}': {error}\n  its command: {run.command}") from error
    return plans


def plannable_arguments(run: Run) -> list[str]:
    """What `fit` is given after its name, without a checkpoint that its trunk has yet to write."""
    return list(run.arguments[1:] if run.starts_from is None else run.arguments[1:-1])


def _prepare(prepare: Sequence[str], program: Sequence[str]) -> None:
    for path in prepare:
        done = subprocess.run([*program, "prepare", "--config", path], check=False)
        if done.returncode != 0:
            raise UserError(
                f"`tst-lightning prepare --config {path}` failed with exit code {done.returncode} (see above)"
            )
