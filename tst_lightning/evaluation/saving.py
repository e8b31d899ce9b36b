"""lm-eval's standard result files."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from lm_eval.loggers import EvaluationTracker
from lm_eval.utils import handle_non_serializable, sanitize_list

from tst_lightning.evaluation.quiet import quiet

_TEXTS = ("doc", "target", "arguments", "resps", "prompt_hash", "target_hash")
"""What is left out of items saved as "scores". The hashes of prompts and targets stay as ``task_hashes``."""


def save_results(results: dict[str, Any], folder: str | Path, log_items: Literal["scores", "full"] = "scores") -> None:
    """Write lm-eval's ``results_<date>.json`` and ``samples_<task>_<date>.jsonl`` as the content of ``folder``.

    The folder appears whole; an earlier one of that name is replaced.

    Args:
        results: what ``evaluate_tasks`` returned; not changed.
        folder: where to write.
        log_items: "full" keeps everything lm-eval logs about an item. "scores" keeps what comparisons of models
            need, a fifth of the size: ``doc_id``, ``doc_hash``, ``filter``, ``metrics``, the value of each metric,
            and ``filtered_resps``, each choice's log-likelihood and whether it is the greedy one.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        written = _write_with_lm_eval(results, Path(aside), log_items)
        if folder.exists():
            os.replace(folder, Path(aside, "replaced"))
        os.replace(written, folder)


def _write_with_lm_eval(results: dict[str, Any], folder: Path, log_items: str) -> Path:
    """The standard files in a folder below ``folder``, which is returned."""
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.log_experiment_args(
        model_source="tst-lightning",
        model_args=results["config"]["model_args"],
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    # lm-eval names its folder after the model, and turns the samples' numbers into strings in place.
    tracker.general_config_tracker.model_name_sanitized = "results"
    aggregated = {key: value for key, value in results.items() if key != "samples"}
    written = folder / "results"
    with quiet():
        tracker.save_results_aggregated(aggregated, samples=results["samples"])
        for task, samples in results["samples"].items():
            if log_items == "full":
                tracker.save_results_samples(task, [dict(sample) for sample in samples])
            else:
                _save_scores(samples, written / f"samples_{task}_{tracker.date_id}.jsonl")
    # It also only logs what went wrong, and a full disk must not look like success.
    if len(list(written.glob("*.json*"))) != 1 + len(results["samples"]):
        shutil.rmtree(written, ignore_errors=True)
        raise OSError(f"lm-eval could not write its results under '{folder}': is the disk full?")
    return written


def _save_scores(samples: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            kept = {key: value for key, value in sample.items() if key not in _TEXTS}
            # As lm-eval writes them: readers find the same types in both kinds of file.
            kept["filtered_resps"] = sanitize_list(sample["filtered_resps"])
            file.write(json.dumps(kept, default=handle_non_serializable) + "\n")
