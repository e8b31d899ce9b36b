"""What keeps a planned `fit` from running: all that `fit` would refuse at its start, and a device that is too small."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.module import CausalLMModule
from tst_lightning.plan.prepared import Prepared
from tst_lightning.plan.run import FitPlan
from tst_lightning.run_options import require_model_sizes, require_optimizer


@dataclass(frozen=True)
class Check:
    """Of a plan."""

    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    """What could not be looked at, and why."""

    @property
    def passed(self) -> bool:
        return not self.problems


def check(
    plan: FitPlan, corpus: Prepared, module: CausalLMModule, memory_bytes: int | None, device_bytes: float
) -> Check:
    """Look for everything that can be known without devices.

    Args:
        plan: of the run.
        corpus: that it reads.
        module: its LightningModule; no model is built.
        memory_bytes: that the run takes of a device; None if a step cannot be rehearsed.
        device_bytes: that a device has.
    """
    problems, unchecked = [*_refusals(plan, corpus, module)], []
    if corpus.is_remote:
        unchecked.append(f"the text: {corpus.missing}")
    elif corpus.missing:
        problems.append(f"{corpus.missing}: run `tst-lightning prepare`")
    if memory_bytes is None:
        unchecked.append("the memory: a step of this model cannot be rehearsed")
    elif memory_bytes > device_bytes:
        problems.append(
            f"the memory of a device is {device_bytes / 1e9:g} GB, and the run takes {memory_bytes / 1e9:.3g} GB"
        )
    return Check(tuple(problems), tuple(unchecked))


def _refusals(plan: FitPlan, corpus: Prepared, module: CausalLMModule) -> Iterator[str]:
    """In the words of `fit`."""
    if corpus.refused:
        yield corpus.refused
    callbacks = plan.config["trainer"].get("callbacks") or []
    steps: list[Callable[[], Any]] = [
        lambda: require_model_sizes(module.config),
        lambda: require_optimizer(module.optimizer_factory),
        lambda: _require_readable(plan, corpus, module),
        lambda: _require_shards(corpus),
        lambda: _require_no_other_run(plan),
        *(lambda entry=entry: _built(entry) for entry in (callbacks if isinstance(callbacks, list) else [callbacks])),
    ]
    for step in steps:
        try:
            step()
        except UserError as error:
            yield str(error)


def _built(entry: Any) -> Any:
    """One of the project's callbacks; their constructors only look at their options."""
    module, _, name = str(entry["class_path"]).rpartition(".")
    if module.partition(".")[0] == "callbacks":
        return getattr(importlib.import_module(module), name)(**entry.get("init_args") or {})
    return None


def _require_readable(plan: FitPlan, corpus: Prepared, module: CausalLMModule) -> None:
    from tst_lightning.modeling.refusals import require_readable

    vocab_size = None if corpus.data is None else corpus.data.vocab_size
    require_readable(module.config, vocab_size, plan.sequence_length)


def _require_shards(corpus: Prepared) -> None:
    for each in () if corpus.data is None else corpus.data.corpora:
        each.require_shards("validation", "train")


def _require_no_other_run(plan: FitPlan) -> None:
    folder = Path(plan.config["trainer"].get("default_root_dir") or ".")
    if not plan.config.get("ckpt_path") and (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"trainer.default_root_dir '{folder}' holds the checkpoints of another run, which this one would "
            "overwrite: resume it with --ckpt_path last, or choose another folder"
        )
