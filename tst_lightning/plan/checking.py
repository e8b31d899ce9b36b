"""What keeps a planned `fit` from running: what it would refuse by its config, text and checkpoint, and a small device.

Left to `fit`: what only its devices, its optimizer or the whole content of its files show.
"""

import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.module import CausalLMModule
from tst_lightning.plan.prepared import Prepared
from tst_lightning.plan.run import FSDP2, FitPlan
from tst_lightning.run.options import require_model_sizes, require_optimizer
from tst_lightning.run.resumable import require_own_folder, require_resumable


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
    """Look for what would keep a run from its first step; nothing is built, and nothing on the disk changes.

    Args:
        plan: of the run.
        corpus: that it reads.
        module: its LightningModule; no model is built.
        memory_bytes: that the run takes of a device; None if a step cannot be rehearsed.
        device_bytes: that a device has.
    """
    problems = list(dict.fromkeys(_refusals(plan, corpus, module)))
    unchecked = [*_unchecked_of_checkpoint(plan, corpus)]
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
        lambda: _require_options(plan, module),
        lambda: _require_readable(plan, corpus, module),
        lambda: _require_shards(corpus),
        lambda: require_own_folder(plan.config["trainer"].get("default_root_dir") or ".", plan.config.get("ckpt_path")),
        lambda: _require_resumable(plan, corpus, module),
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


def _require_options(plan: FitPlan, module: CausalLMModule) -> None:
    from tst_lightning.modeling.refusals import require_options
    from tst_lightning.modeling.tensor_parallel import require_splittable

    if plan.devices.tensor_parallel > 1:
        require_splittable(module.config, plan.devices.tensor_parallel)
    require_options(module, "ModelParallelStrategy" if plan.devices.strategy == FSDP2 else "")


def _checkpoint(plan: FitPlan) -> str | None:
    """The file or folder that the run goes on from."""
    path = plan.config.get("ckpt_path")
    return path if path and Path(path).exists() else None


def _require_resumable(plan: FitPlan, corpus: Prepared, module: CausalLMModule) -> None:
    """The checkpoint against model, length, and order of the text."""
    if (path := _checkpoint(plan)) is None:
        return
    require_resumable(path, module.config, plan.max_steps)
    if corpus.data is None:
        return
    from tst_lightning.modeling.checkpoint import read_checkpoint

    data = copy.copy(corpus.data)
    state = read_checkpoint(path).get(type(data).__name__)  # where Lightning puts it
    if state:
        data.trainer = SimpleNamespace(
            **vars(data.trainer), global_step=state.get("step", 0), max_steps=plan.max_steps, lightning_module=module
        )
        data.load_state_dict(state)
        data.check_fit()


def _unchecked_of_checkpoint(plan: FitPlan, corpus: Prepared) -> Iterator[str]:
    if not plan.config.get("ckpt_path"):
        return
    if _checkpoint(plan) is None:
        yield f"the checkpoint: '{plan.config['ckpt_path']}' is a name that fit looks up"
        return
    order = "the order of its text, " if corpus.data is None else ""
    yield f"the checkpoint: fit compares {order}its checksums and its optimizer"
