"""Run folders as a training leaves them, with numbers that a test chooses."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import yaml
from plain_arms import plain_arms
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from tst_lightning.comparison.design.arms import Arm, Overlay
from tst_lightning.comparison.design.experiment import Experiment, run_folder

POSITIONS_PER_STEP = 4096
FLOPS_PER_POSITION = 6_000_000


def write_events(folder: Path, points: list[tuple[str, int, float]], start_time: float = 1000.0) -> None:
    """Write TensorBoard scalars ``(tag, step, value)`` as one event file of one attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"events.out.tfevents.{int(start_time)}.host.1.0").open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=start_time, step=0, file_version="brain.Event:2").SerializeToString())
        for number, (tag, step, value) in enumerate(points):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=start_time + number * 1e-3, step=step, summary=summary)
            writer.write(event.SerializeToString())
        writer.flush()


def validation_points(
    losses: dict[int, float], bag_size: int = 1, switch: int = 0, seconds_per_step: float = 0.2
) -> list[tuple[str, int, float]]:
    """What a run logs at its validations."""
    points = []
    for step, loss in losses.items():
        positions = step * POSITIONS_PER_STEP
        tokens = positions + min(step, switch) * POSITIONS_PER_STEP * (bag_size - 1)
        points += [
            ("val/loss", step, loss),
            ("val/bits_per_byte", step, loss / math.log(2)),
            ("progress/flops", step, positions * FLOPS_PER_POSITION),
            ("progress/positions", step, positions),
            ("progress/data_tokens", step, tokens),
            ("progress/train_seconds", step, step * seconds_per_step),
        ]
    return points


def write_run(
    folder: Path,
    losses: dict[int, float],
    max_steps: int,
    bag_size: int = 1,
    switch: int = 0,
    seconds_per_step: float = 0.2,
    accuracy: float | None = None,
    finished: bool = True,
    data: dict | None = None,
) -> None:
    """A whole run folder with the given validation losses; ``data`` goes into its ``config.yaml``."""
    write_events(folder, validation_points(losses, bag_size, switch, seconds_per_step))
    step = max(losses)
    positions = step * POSITIONS_PER_STEP
    progress = {
        "step": step,
        "max_steps": max_steps,
        "bag_size": 1,
        "phase": "next-token",
        "data_tokens": positions + min(step, switch) * POSITIONS_PER_STEP * (bag_size - 1),
        "positions": positions,
        "flops": positions * FLOPS_PER_POSITION,
        "train_seconds": step * seconds_per_step,
        "positions_per_second": POSITIONS_PER_STEP / seconds_per_step,
        "recovery_step": switch,
        "done": step == max_steps,
    }
    (folder / "progress.json").write_text(json.dumps(progress))
    config = {"trainer": {"max_steps": "<b>4000</b>"}} | ({} if data is None else {"data": data})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "command.txt").write_text(f"tst-lightning fit --trainer.default_root_dir={folder}\n")
    if accuracy is not None:
        write_scores(folder / "evaluation" / f"step={step}", accuracy)
    if finished:
        values = {
            "command": "tst-lightning fit",
            "exit_code": 0,
            "wall_seconds": step * seconds_per_step * 1.2,
            "attempts": 1,
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T01:00:00+00:00",
            "threads": 1,
            "versions": {"python": "3.11", "torch": "2.15.0"},
            "commit": {"hash": "a" * 40, "dirty": False},
            "machine": {"cpu": "Some CPU", "cpus": 2, "gpus": [], "system": "Linux x86_64"},
        }
        (folder / "finished.json").write_text(json.dumps(values))


def write_scores(folder: Path, accuracy: float) -> None:
    """lm-eval's results file with a multiple-choice task, a last-word task, and a group of two."""
    folder.mkdir(parents=True, exist_ok=True)

    def multiple_choice(value: float) -> dict:
        return {"alias": "x", "acc,none": value, "acc_stderr,none": 0.02, "acc_norm,none": value + 0.01,
                "acc_norm_stderr,none": 0.02}  # fmt: skip

    results = {
        "results": {
            "heldout_continuation": multiple_choice(accuracy),
            "heldout_last_word": {
                "alias": "y", "perplexity,none": 30.0, "perplexity_stderr,none": "N/A",
                "acc,none": accuracy / 2, "acc_stderr,none": 0.015,
            },
            "blimp": {"alias": "blimp", "acc,none": accuracy + 0.2, "acc_stderr,none": 0.01},
            "blimp_a": {"alias": " - a", "acc,none": accuracy + 0.1, "acc_stderr,none": 0.01},
            "blimp_b": {"alias": " - b", "acc,none": accuracy + 0.3, "acc_stderr,none": 0.01},
        },
        "group_subtasks": {"blimp": ["blimp_a", "blimp_b"], "heldout_continuation": []},
        "n-samples": {"heldout_continuation": {"original": 500, "effective": 400}},
        "higher_is_better": {
            "heldout_continuation": {"acc": True, "acc_norm": True},
            "heldout_last_word": {"perplexity": False, "acc": True},
        },
    }  # fmt: skip
    (folder / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps(results))


def write_items(
    folder: Path,
    tasks: dict[str, dict[str, Sequence]],
    groups: dict[str, tuple[list[str], dict[str, float]]] | None = None,
) -> Path:
    """lm-eval's results with logs of items: task -> metric -> a value per item; group -> its tasks and scores."""
    folder.mkdir(parents=True, exist_ok=True)
    date = "2026-01-01T00-00-00.000000"
    results = {task: {f"{metric},none": _score(metric, values) for metric, values in metrics.items()}
               for task, metrics in tasks.items()}  # fmt: skip
    subtasks: dict[str, list[str]] = {task: [] for task in tasks}
    for group, (members, scores) in (groups or {}).items():
        subtasks[group] = members
        results[group] = {f"{metric},none": value for metric, value in scores.items()}
    for task, metrics in tasks.items():
        lines = [
            json.dumps({"doc_id": item, "doc_hash": f"{task}{item}", "doc": {"text": "x"}, "filter": "none",
                        "metrics": list(metrics), **dict(zip(metrics, values, strict=True))})
            for item, values in enumerate(zip(*metrics.values(), strict=True))
        ]  # fmt: skip
        (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n")
    sizes = {task: {"effective": len(next(iter(metrics.values())))} for task, metrics in tasks.items()}
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps({"results": results, "group_subtasks": subtasks, "n-samples": sizes}))
    return path


def _score(metric: str, values: Sequence) -> float:
    """As lm-eval aggregates a metric over items."""
    if metric == "perplexity":
        return math.exp(-sum(values) / len(values))
    if metric.endswith("_perplexity"):
        return math.exp(-sum(total for total, _ in values) / sum(size for _, size in values))
    return sum(values) / len(values) if all(isinstance(value, int | float) for value in values) else 0.0


def make_experiment(output_dir: Path, seeds: tuple[int, ...] = (1, 2, 3), arms=("baseline", "tst")) -> Experiment:
    """An experiment and its saved definition; no runs."""
    experiment = Experiment(
        "synthetic", output_dir, seeds, Overlay(), plain_arms({arm: Overlay() for arm in arms}, arms[0]), arms[0],
        "A synthetic comparison",
    )  # fmt: skip
    experiment.save()
    return experiment


def write_typical_runs(experiment: Experiment, max_steps: int = 4000, gain: float = 0.035) -> None:
    """Curves shaped like real ones: TST poor until its switch, then quickly better by ``gain``."""
    switch = int(0.3 * max_steps)
    for seed in experiment.seeds:
        noise = random.Random(seed)
        shared = noise.gauss(0, 0.008)
        for place, arm in enumerate(experiment.arms):
            losses = {}
            for step in range(100, max_steps + 1, 100):
                done = step / max_steps
                loss = 1.40 + 2.2 * math.exp(-done * 14) + 0.35 * (1 - done) + shared + noise.gauss(0, 0.004)
                loss -= 0.08 * max(0.0, (done - 0.9) / 0.1)
                if place:
                    after = (step - switch) / max_steps
                    if step <= switch:
                        loss = 3.2 + 1.5 * math.exp(-done * 10) + noise.gauss(0, 0.03)
                    else:
                        loss += 1.3 * math.exp(-after * 18) - gain * place
                losses[step] = loss
            write_run(
                run_folder(experiment.output_dir, arm, seed), losses, max_steps,
                bag_size=4 if place else 1, switch=switch if place else 0,
                seconds_per_step=0.22 if place else 0.2, accuracy=0.34 + 0.02 * place + noise.gauss(0, 0.008),
            )  # fmt: skip


def make_lengths_experiment(
    output_dir: Path, lengths: Sequence[int], methods: Sequence[str] = ("baseline", "tst"), seeds=(1, 2, 3),
    branch: Sequence[str] = (), variants: Sequence[str] = ("",),
) -> Experiment:  # fmt: skip
    """Methods at several run lengths; the first is the baseline. Shorter runs of ``branch`` come off the longest."""
    arms = {}
    for variant in variants:
        for method in methods:
            for steps in sorted(lengths, reverse=True):
                prefix = f"{variant}-" if variant else ""
                trunk = f"{prefix}{method}-{max(lengths)}" if method in branch and steps < max(lengths) else None
                name = f"{prefix}{method}-{steps}"
                arms[name] = Arm(
                    name, method, Overlay(), variant=variant, steps=steps,
                    references=() if method == methods[0] else (f"{prefix}{methods[0]}-{steps}",),
                    trunk=trunk, branch_step=None if trunk is None else steps - steps // 10,
                )  # fmt: skip
    experiment = Experiment("lengths", output_dir, tuple(seeds), Overlay(), arms, methods[0])
    experiment.save()
    return experiment


def write_final(experiment: Experiment, arm: str, seed: int, loss: float, **options) -> None:
    """A finished run of an arm with a length, with two validations; a branch has those of its decay alone."""
    this = experiment.arms[arm]
    before = this.branch_step + 1 if this.trunk else this.steps // 2
    write_run(
        run_folder(experiment.output_dir, arm, seed), {before: loss + 0.5, this.steps: loss}, this.steps, **options
    )
