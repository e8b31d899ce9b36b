"""The prepared text that a run would read, if it is there, against what the run needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tst_lightning.comparison.design.configured import CURRICULUM, built_callbacks
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import FILE_NAME
from tst_lightning.data.storage import is_remote
from tst_lightning.errors import UserError
from tst_lightning.plan.run import FitPlan


@dataclass(frozen=True)
class Prepared:
    """What is known of the corpora of a run."""

    folders: tuple[str, ...]
    tokens: int | None
    """Of the training splits; None if they are not there."""
    epochs: int
    """How often they may be read."""
    missing: str = ""
    """Why nothing is known."""
    is_remote: bool = False
    """Whether that is because object storage is not asked."""
    refused: str = ""
    """What `fit` would say to this run."""
    passes_needed: float | None = None
    """Over the corpus that is read most often."""
    data: Any = None
    """The data module with the run's schedule, which counts tokens and positions as the run does."""

    @property
    def usable_tokens(self) -> int | None:
        """That may be read, over all epochs."""
        return None if self.tokens is None else self.tokens * self.epochs


def prepared(plan: FitPlan) -> Prepared:
    """Look for the manifests of ``data.data_dir``; shards are not opened.

    Raises:
        UserError: a manifest that is none, or corpora that do not go together.
    """
    options = dict(plan.config["data"])
    data_dir, epochs = options["data_dir"], options.get("epochs", 1)
    folders = tuple(data_dir) if isinstance(data_dir, Mapping) else (str(data_dir),)
    if missing := _missing(folders):
        return Prepared(folders, None, epochs, missing, any(map(is_remote, folders)))
    data = TokenDataModule(**options)
    data.trainer = SimpleNamespace(
        accumulate_grad_batches=plan.accumulate, world_size=plan.devices.data_parallel, global_rank=0, strategy=None
    )
    tokens = sum(corpus.manifest.train.tokens for corpus in data.corpora)
    refused, passes, counted = "", None, data
    try:
        data.set_schedule(_schedule(plan, data))
        reading = data.plan_of(plan.accumulate, plan.devices.data_parallel)
        passes = max(reading.passes_needed(plan.max_steps))
        data.trainer, trainer = None, data.trainer  # `check` measures the text only outside of a fit
        try:
            data.check(plan.max_steps, plan.accumulate, plan.devices.data_parallel)
        except UserError as error:
            refused = str(error)
        data.trainer = trainer
    except UserError as error:
        refused, counted = str(error), None
    return Prepared(folders, tokens, epochs, "", False, refused, passes, counted)


def _missing(folders: tuple[str, ...]) -> str:
    for folder in folders:
        if is_remote(folder):
            return f"'{folder}' is in object storage, which is not asked"
        if not (Path(folder) / FILE_NAME).is_file():
            return f"'{folder}' is not prepared yet"
    return ""


def _schedule(plan: FitPlan, data: TokenDataModule) -> Any:
    """That of superposition; or of the length curriculum, which depends on the text."""
    curricula = built_callbacks(plan.config, CURRICULUM)
    if not curricula:
        return plan.schedule
    from tst_lightning.data.reading.curriculum import length_schedule
    from tst_lightning.data.reading.decomposition import CURRICULUM as STREAM
    from tst_lightning.data.reading.order import MIXTURE, generator

    one = curricula[0]
    tokens = data.decompose(one.min_length, one.long_documents)
    return length_schedule(tokens, plan.max_steps, one.curriculum, one.cycles, generator(data.seed, 0, MIXTURE, STREAM))
