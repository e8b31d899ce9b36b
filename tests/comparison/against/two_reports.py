"""Reports of two results folders with numbers that each test chooses."""

import json
import math
from pathlib import Path

import yaml
from scipy import stats

from tst_lightning.comparison.against.compare import Against, compare_folders
from tst_lightning.comparison.against.reported import read_reported


def config_text(folder: str, seed: int, learning_rate: float = 0.01, hidden_size: int = 64, data_dir: str = "data/a",
                callbacks: tuple = (), max_steps: int = 100, ckpt_path: str | None = None) -> str:  # fmt: skip
    return yaml.safe_dump({
        "seed_everything": seed,
        "trainer": {
            "default_root_dir": folder, "precision": "bf16-mixed", "max_steps": max_steps,
            "logger": {"class_path": "Logger", "init_args": {"save_dir": folder}}, "callbacks": list(callbacks),
        },
        "model": {
            "config": {"class_path": "Llama", "init_args": {"hidden_size": hidden_size}}, "init_seed": seed,
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": learning_rate}},
        },
        "data": {"data_dir": data_dir, "sequence_length": 8, "validation_windows": 4, "seed": seed},
        "ckpt_path": ckpt_path,
    })  # fmt: skip


def evaluation(**options) -> dict:
    return {"class_path": "callbacks.DownstreamEvaluation", "init_args": {"tasks": ["piqa"]} | options}


def write_report_json(
    folder: Path, arms: dict[str, dict[int, float | None]], version: int = 1, seeds=None, config=None, seconds=100.0,
    accuracy=None, items=400, cpu="Some CPU", methods=None,
) -> Path:  # fmt: skip
    """``report.json`` with these final losses by arm and seed; None for a run that has diverged.

    Args:
        config: Arm -> options of ``config_text``; under ``""`` those of all arms.
        accuracy: Arm -> seed -> accuracy on piqa.
        methods: Arm -> (method, variant, steps), version 2 only.
    """
    folder.mkdir(parents=True)
    config, baseline = config or {}, next(iter(arms))
    values = {"format_version": version, "created": "2026-01-01T00:00:00+00:00", "arms": {}, "runs": [], "pairs": []}
    values["experiment"] = {"output_dir": f"results/{folder.name}", "baseline": baseline, "seeds": seeds or []}
    for arm, losses in arms.items():
        by_seed = (accuracy or {}).get(arm, {})
        scores = [{"task": "piqa", "metric": "acc", "by_seed": by_seed, "items": items, "in_group": False,
                   "higher_is_better": True}] if by_seed else []  # fmt: skip
        costs = {"flops": 1e12, "data_tokens": 4e6, "positions": 1e6, "train_seconds": seconds,
                 "positions_per_second": 1e6 / seconds, "wall_seconds": None}  # fmt: skip
        values["arms"][arm] = {"arm": arm, "final_by_seed": losses, "costs": costs, "scores": scores}
        if version == 2:
            finite = {seed: loss for seed, loss in losses.items() if loss is not None}
            method, variant, steps = (methods or {}).get(arm, (arm, "", None))
            values["arms"][arm] |= {"final_by_seed": finite, "method": method, "variant": variant, "steps": steps,
                                    "diverged": [seed for seed in losses if seed not in finite]}  # fmt: skip
            if arm != baseline:
                values["pairs"].append({"arm": arm, "reference": baseline, "not_compared": ""})
        for seed in seeds or losses:
            run_dir = f"results/{folder.name}/runs/{arm}/seed_{seed}"
            text = config_text(run_dir, seed, **{**config.get("", {}), **config.get(arm, {})})
            origin = {"commit": {"hash": "a" * 40, "dirty": False}, "versions": {"torch": "2.15.0"}, "threads": 1,
                      "machine": {"cpu": cpu, "cpus": 2, "gpus": []}}  # fmt: skip
            status = "finished" if seed in losses else "missing"
            values["runs"].append({"arm": arm, "seed": seed, "status": status, "config": text, "finished": origin,
                                   "progress": {"max_steps": 100}})  # fmt: skip
    (folder / "report.json").write_text(json.dumps(values))
    return folder


def other_rate(**more) -> dict:
    """Runs of another folder that are not repeats."""
    return {"": {"learning_rate": 0.02} | more}


def against(here: Path, there: Path) -> Against:
    return compare_folders(read_reported(here), read_reported(there))


def welch_by_hand(one: list[float], other: list[float]) -> tuple[float, float, float, float]:
    """Difference, interval and p by the formulas of Welch and Satterthwaite."""
    shares = []
    for sample in (one, other):
        mean = sum(sample) / len(sample)
        shares.append(sum((value - mean) ** 2 for value in sample) / (len(sample) - 1) / len(sample))
    degrees = sum(shares) ** 2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, (one, other), strict=True)
    )
    difference, error = sum(one) / len(one) - sum(other) / len(other), math.sqrt(sum(shares))
    half = stats.t.ppf(0.975, degrees) * error
    return difference, difference - half, difference + half, 2 * stats.t.sf(abs(difference) / error, degrees)


BASE = {1: 1.50, 2: 1.52, 3: 1.49}
NOISE = {1: 0.001, 2: -0.002, 3: 0.0005}


def shifted(gain: float, noise: float = 1.0, base: dict[int, float] = BASE) -> dict[int, float]:
    return {seed: loss - gain + noise * NOISE[seed] for seed, loss in base.items()}
