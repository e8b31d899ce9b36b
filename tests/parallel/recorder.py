"""A callback for runs under test: what each process read and what its losses were, as JSON by rank."""

import hashlib
import json
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch.optim import _muon

from tst_lightning.data.reading.shards import Shards


class Recorder(Callback):
    """Writes ``rank=N.json``: the micro-batches, and the validation loss by step.

    Of a micro-batch: its optimizer step, number and loss, and the loss ``logged`` last; ``spans``, shard, first token
    and number of tokens, as they were asked of the files for it; ``rows``, a digest of each row that the model got.
    ``replicated`` parameters are to be the same in processes with the same ``shard``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.batches, self.validation, self.spans = [], {}, []

    def setup(self, trainer, pl_module, stage):
        read, spans = Shards.tokens, self.spans

        def tokens(shards, shard, first, count):
            if Path(shards.folder).name == "train":
                spans.append([shard, first, count])
            return read(shards, shard, first, count)

        Shards.tokens = tokens

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rows = [digest(row) for row in batch["tokens"]]
        batch = {"step": trainer.global_step, "micro": batch["micro"], "rows": rows, "spans": self.spans.copy()}
        self.batches.append(batch)
        self.spans.clear()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        # Lightning gives the loss back undivided by accumulate_grad_batches.
        self.batches[-1]["loss"] = float(outputs["loss"])
        self.batches[-1]["logged"] = float(trainer.callback_metrics.get("train/loss", 0.0))

    def on_validation_end(self, trainer, pl_module):
        self.validation[trainer.global_step] = float(trainer.callback_metrics["val/loss"])

    def on_fit_end(self, trainer, pl_module):
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"batches": self.batches, "validation": self.validation, "replicated": replicated(pl_module)}
        data_rank = getattr(trainer.strategy, "distributed_sampler_kwargs", {"rank": 0})["rank"]
        content["shard"] = data_rank if hasattr(trainer.strategy, "device_mesh") else 0
        (self.folder / f"rank={trainer.global_rank}.json").write_text(json.dumps(content))


def replicated(module):
    """A digest of each parameter, or this process' shard of it, that other processes have too."""
    found = {}
    for name, parameter in module.named_parameters():
        if not hasattr(parameter, "placements"):
            found[name] = digest(parameter.detach())
        elif parameter.placements[-1].is_replicate():
            found[name] = digest(parameter.to_local().detach())
    return found


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


class ExactMuon(Callback):
    """Muon's Newton-Schulz iterations in fp32 instead of bf16, whose rounding would hide everything else."""

    def setup(self, trainer, pl_module, stage):
        _muon.torch = _Torch()


class _Torch:
    """The module as ``torch.optim._muon`` is to see it."""

    bfloat16 = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)
