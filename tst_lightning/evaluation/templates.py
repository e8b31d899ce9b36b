"""lm-eval's prompt templates, compiled once instead of once per item and use."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache

from lm_eval.utils import env


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Within the block, the same template text gives the same compiled template.

    lm-eval compiles a task's templates several times for each item, which for BLiMP's 67,000 pairs takes longer
    than a small model. Templates hold no state, so rendering is unchanged.
    """
    env.from_string = lru_cache(maxsize=256)(env.from_string)  # the instance's attribute hides the class's method
    try:
        yield
    finally:
        del env.from_string
