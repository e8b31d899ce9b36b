"""Silence for libraries that print while they work."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator

_ENVIRONMENT = {"DISABLE_MULTIPROC": "1", "TOKENIZERS_PARALLELISM": "false"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mute lm-eval's warnings and prints and the progress bars of ``datasets``; exceptions pass.

    Some of lm-eval's bars ignore ``TQDM_DISABLE``, hence the redirection. ``DISABLE_MULTIPROC`` keeps its
    bootstrap from forking the training process, and ``TOKENIZERS_PARALLELISM`` keeps tokenizers from starting
    threads, about which they would warn at every later fork, as of a data loader's workers.
    """
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    os.environ.update(_ENVIRONMENT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
