"""Evaluate a model in memory on loaded tasks, leaving no trace in the process."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import lm_eval
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lm_eval.api.metrics import acc_all, mean, perplexity

import tst_lightning
from tst_lightning.evaluation.adapter import InMemoryLM, Shard
from tst_lightning.evaluation.metrics import metric_values
from tst_lightning.evaluation.quiet import quiet
from tst_lightning.evaluation.templates import compiled_once

_PACKAGES = ("lm_eval", "transformers", "datasets", "torch", "lightning")


def evaluate_tasks(
    model: torch.nn.Module,
    tokenizer: Any,
    tasks: dict[str, Any],
    *,
    source: str = "model",
    limit: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    forward_context: Callable[[], AbstractContextManager] = nullcontext,
    shard: Shard | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """lm-eval's results for ``model``, with samples.

    Random states (Python, NumPy, PyTorch) and every module's training mode are as before afterwards, so an
    evaluation in the middle of training does not change it.

    Args:
        model: a Hugging Face causal LM.
        tokenizer: its tokenizer.
        tasks: what ``load_tasks`` returned.
        source: where the model comes from; kept in the results.
        limit: only the first items of each task.
        max_length: longest input in tokens; default: the model's number of positions.
        batch_tokens: padded tokens per forward pass; default: by device.
        forward_context: entered around each forward pass, for autocast.
        shard: this process's part when several ranks evaluate together; all must call.
        progress: show a bar on standard error.
    """
    started = time.time()
    language_model = InMemoryLM(model, tokenizer, max_length, batch_tokens, forward_context, shard, progress)
    # Not inference_mode: buffers that a model updates in its forward pass could not be used in training.
    with isolate_rng(), _evaluation_mode(model), torch.no_grad(), quiet(), compiled_once():
        # Two bootstrap draws: 0 would switch the closed-form errors off too, 1 divides by zero.
        results = lm_eval.evaluate(
            language_model, tasks, limit=limit, bootstrap_iters=2, log_samples=True, verbosity=None
        )
    _replace_bootstrapped_errors(results, tasks["tasks"])
    parameter = next(model.parameters())
    results["config"] = {
        "model": source,
        "model_args": {"pretrained": source},
        "model_num_parameters": sum(p.numel() for p in model.parameters()),
        "model_dtype": str(parameter.dtype),
        "device": str(parameter.device),
        "batch_tokens": language_model.batch_tokens,
        "max_length": language_model.max_length,
        "limit": limit,
    }
    results["date"] = started
    results["evaluation_seconds"] = time.time() - started
    results.update({f"{package}_version": version(package) for package in _PACKAGES})
    results["tst_lightning_version"] = tst_lightning.__version__
    return results


def longest_input(model: Any, trained_tokens: int | None) -> int | None:
    """Longest input in tokens: not beyond what was trained, since a model may have positions it never saw."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(trained_tokens, positions or trained_tokens) if trained_tokens else None


def scores(results: dict[str, Any]) -> dict[str, float]:
    """``{"<task>/<metric>": value}`` of tasks and groups, without standard errors and missing values."""
    return {
        f"{task}/{metric}" + ("" if filter_name == "none" else f",{filter_name}"): value
        for task, metrics in results["results"].items()
        for metric, filter_name, value, _ in metric_values(metrics)
    }


@contextlib.contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own mode again: a frozen part may be in another than the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _replace_bootstrapped_errors(results: dict[str, Any], tasks: dict[str, Any]) -> None:
    """Standard errors that two bootstrap draws cannot give: the delta method's for perplexity, else none."""
    bootstrapped = set()
    for name, task in tasks.items():
        metrics = results["results"][name]
        for key in [key for key in metrics if "_stderr," in key]:
            metric, _, filter_name = key.partition("_stderr,")
            aggregation = task.aggregation().get(metric)
            if aggregation in (mean, acc_all):
                continue
            bootstrapped.add(metric)
            values = [s[metric] for s in results["samples"][name] if s["filter"] == filter_name]
            metrics[key] = _perplexity_error(values) if aggregation is perplexity else "N/A"
    for name in results.get("groups", {}):
        for metrics in (results["results"].get(name, {}), results["groups"][name]):
            for key in [key for key in metrics if key.partition("_stderr,")[0] in bootstrapped]:
                if "_stderr," in key:
                    metrics[key] = "N/A"


def _perplexity_error(log_likelihoods: list[float]) -> float | str:
    """Standard error of ``exp(-mean)``: the value times the standard error of the mean."""
    if len(log_likelihoods) < 2:
        return "N/A"
    error = statistics.stdev(log_likelihoods) / math.sqrt(len(log_likelihoods))
    return math.exp(-statistics.fmean(log_likelihoods)) * error
