"""Reading lm-eval's results; imports nothing of lm-eval, which takes a second."""

from collections.abc import Iterator
from typing import Any


def metric_values(metrics: dict[str, Any]) -> Iterator[tuple[str, str, float, float | None]]:
    """Metric, filter, value and standard error of the numbers in one task's results.

    lm-eval's keys are ``metric,filter`` and ``metric_stderr,filter``; most tasks have the one filter ``none``.
    """
    for key, value in metrics.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{metric}_stderr,{filter_name}")
        yield metric, filter_name, float(value), float(error) if isinstance(error, int | float) else None
