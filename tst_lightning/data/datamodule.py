"""Batches of a prepared corpus for Lightning, with bags as the schedule says and exact resume."""

import hashlib
import json
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from torch.utils.data import DataLoader

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.reading.loading import PlannedLoader, PlannedSampler, SpanBatches, validation_batches
from tst_lightning.data.reading.plan import Plan
from tst_lightning.data.reading.shards import Shards, require_shards
from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

STATE_VERSION = 1


class TokenDataModule(lightning.LightningDataModule):
    """Reads a folder made by ``tst-lightning prepare`` in the order of a ``reading.plan.Plan``.

    A batch is a dict: ``tokens``, int32 ``(batch_size, sequence_length + 1, bag size)`` on the device, and
    ``micro``, its number as a Python integer. Validation batches have bag size 1. One epoch of the Trainer
    is the whole run of ``max_steps``, whatever number of passes over the text that takes.

    Args:
        data_dir: folder with a prepared corpus.
        sequence_length: positions of a training row; the model predicts at each of them.
        batch_size: rows per device and micro-batch.
        seed: of the order in which the text is read.
        epochs: how often the training text may be read. A run that needs more is refused before it starts.
        rows_per_group: rows of ``sequence_length + 1`` tokens that are kept together when the text is
            shuffled. By default the largest bag size of the schedule. To read the same text in the same order
            with and without superposition, set it to the bag size in both.
        validation_batch_size: windows per device and validation batch; by default ``batch_size``.
        validation_windows: how many windows of ``sequence_length + 1`` tokens are validated on, evenly spaced
            over the validation text and always the same ones. All, if there are fewer.
        num_workers: processes that read ahead of training. The batches do not depend on it.
        streams: places in the text that are read in parallel; with as many as devices, each device reads
            files of its own.
        shuffle_shards: how many files of the text are shuffled together.
    """

    def __init__(
        self,
        data_dir: str,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        rows_per_group: int | None = None,
        validation_batch_size: int | None = None,
        validation_windows: int = 512,
        num_workers: int = 1,
        streams: int = 1,
        shuffle_shards: int = 8,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = epochs
        self.rows_per_group = rows_per_group
        self.validation_batch_size = batch_size if validation_batch_size is None else validation_batch_size
        self.validation_windows = validation_windows
        self.num_workers = num_workers
        self.streams = streams
        self.shuffle_shards = shuffle_shards
        self._require_valid_options()

        self.manifest = Manifest.load(self.data_dir)
        self.schedule = Schedule()
        self.bag_size = 1
        """Bag size of the current step, for modules that look here. The batches follow ``schedule``."""
        self._loaded_state: dict[str, Any] = {}
        self._train_plan: Plan | None = None

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest.tokenizer.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token of the validation split, for bits per byte."""
        return self.manifest.validation.bytes / self.manifest.validation.tokens

    def set_schedule(self, schedule: Schedule) -> None:
        """Replace the schedule; in a callback's ``setup``, which runs before the loaders are built."""
        self.schedule = schedule

    def check(self, max_steps: int, accumulate: int, world_size: int) -> None:
        """Refuse a run that the prepared tokens or the options cannot serve; reads no tokens.

        Args:
            max_steps: optimizer steps of the run.
            accumulate: micro-batches of a step.
            world_size: data-parallel ranks.

        Raises:
            UserError: no ``max_steps``, too few tokens, or sizes that do not divide.
        """
        if max_steps is None or max_steps < 1:
            raise UserError(
                f"the order of the data is planned by step, and the Trainer has max_steps={max_steps}: "
                "set trainer.max_steps to the number of optimizer steps"
            )
        plan = self._plan(accumulate, world_size)
        epochs = plan.epochs_needed(max_steps)
        if epochs > self.epochs:
            raise UserError(
                f"{max_steps:,} steps need {plan.tokens_needed(max_steps):,} tokens, and '{self.data_dir}' has "
                f"{plan.tokens_per_pass:,} for each of epochs={self.epochs} "
                f"(whole groups of {plan.group_tokens:,} tokens): set epochs={epochs} to repeat the text, "
                "lower max_steps, or prepare more text"
            )

    def setup(self, stage: str) -> None:
        """Check what can be known without the schedule, which a callback may set only after this."""
        # One worker reads some ten million tokens a second, and validation needs none.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        require_shards(self.data_dir / "validation", self.manifest.validation)
        if stage != "fit":
            return
        self._train_plan = None
        require_shards(self.data_dir / "train", self.manifest.train)
        if self.trainer.overfit_batches:
            raise UserError(
                f"overfit_batches={self.trainer.overfit_batches} is not supported, the order of the data is "
                "planned for the whole run: prepare a small text and set epochs instead"
            )

    def train_dataloader(self) -> DataLoader:
        """Batches from the Trainer's current step to ``max_steps``."""
        self._check_fit()
        plan, rank = self._train_plan, self._replicas()[1]
        shards = Shards(self.data_dir / "train", plan.group_tokens, self.manifest.train.shard_tokens)
        batches = SpanBatches(shards, partial(plan.batch, rank=rank), self.sequence_length + 1)
        trainer, accumulate = self.trainer, plan.accumulate
        sampler = PlannedSampler(lambda: trainer.global_step * accumulate, trainer.max_steps * accumulate)
        return PlannedLoader(batches, sampler, self.num_workers, self._on_gpu())

    def val_dataloader(self) -> DataLoader:
        """The validation windows of this rank. Read in this process: there are few, and it takes milliseconds."""
        if self.trainer.state.fn == "fit":
            # The sanity check validates before the training loader is asked for.
            self._check_fit()
        world_size, rank = self._replicas()
        row_tokens = self.sequence_length + 1
        split = self.manifest.validation
        batches = validation_batches(
            split.shard_tokens,
            row_tokens,
            self.validation_windows,
            self.validation_batch_size,
            world_size,
            rank,
        )
        if not batches:
            raise UserError(
                f"the validation split of '{self.data_dir}' has {split.tokens:,} tokens in "
                f"{len(split.shard_tokens)} shards, less than a window of {row_tokens} for each of "
                f"{world_size} devices: prepare more text, or lower sequence_length"
            )
        shards = Shards(self.data_dir / "validation", row_tokens, split.shard_tokens)
        sampler = PlannedSampler(lambda: 0, len(batches))
        return PlannedLoader(SpanBatches(shards, batches.__getitem__, row_tokens), sampler, 0, self._on_gpu())

    def test_dataloader(self) -> DataLoader:
        """The validation windows: a prepared corpus has no third split."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Stop a run whose data and step have drifted apart.

        Raises:
            UserError: the batch is not the one that the Trainer's count of batches says is next.
        """
        if self.trainer is not None and self.trainer.training:
            expected = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
            if batch["micro"] != expected:
                raise UserError(
                    f"training is at micro-batch {expected}, but got the data of micro-batch {batch['micro']}. "
                    "The checkpoint was probably saved between the micro-batches of one optimizer step: "
                    "resume from one that was saved at the end of a step"
                )
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What determines the order of the data. The position in it is the Trainer's step."""
        plan = self._train_plan
        if plan is None:
            return {}
        return {
            "version": STATE_VERSION,
            "seed": plan.seed,
            "schedule": plan.schedule.as_dict(),
            "batch_size * devices": plan.global_batch,
            "accumulate_grad_batches": plan.accumulate,
            "sequence_length": self.sequence_length,
            "rows_per_group": plan.group_rows,
            "streams": plan.streams,
            "shuffle_shards": plan.shuffle_shards,
            "tokenizer": self.manifest.tokenizer.hash,
            "corpus": self._corpus_hash(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state, to compare it once the schedule is known.

        Raises:
            UserError: the loaders are built already, and the checkpoint is of another run.
        """
        self._loaded_state = state_dict
        if self._train_plan is not None:
            self._require_same_run()

    def _check_fit(self) -> None:
        """Everything that must hold before the first training batch is read."""
        trainer, (world_size, _) = self.trainer, self._replicas()
        self.check(trainer.max_steps, trainer.accumulate_grad_batches, world_size)
        self._train_plan = self._plan(trainer.accumulate_grad_batches, world_size)
        self._require_same_run()

    def _require_same_run(self) -> None:
        saved, current = self._loaded_state, self.state_dict()
        changed = [key for key in saved if saved[key] != current.get(key)]
        if changed:
            lines = [f"{key}: {saved[key]} in the checkpoint, now {current.get(key)}" for key in changed]
            raise UserError(
                "the checkpoint belongs to a run with another order of the data, resuming it would repeat or "
                "skip text. " + "; ".join(lines) + ". Set the checkpoint's values again, or start a new run "
                "without ckpt_path"
            )

    def _plan(self, accumulate: int, world_size: int) -> Plan:
        row_tokens = self.sequence_length + 1
        group_rows = self.rows_per_group or max(stage.bag_size for stage in self.schedule.stages)
        return Plan(
            shard_groups=tuple(n // (group_rows * row_tokens) for n in self.manifest.train.shard_tokens),
            row_tokens=row_tokens,
            schedule=self.schedule,
            group_rows=group_rows,
            accumulate=accumulate,
            world_size=world_size,
            batch_size=self.batch_size,
            streams=self.streams,
            shuffle_shards=self.shuffle_shards,
            seed=self.seed,
        )

    def _replicas(self) -> tuple[int, int]:
        """Number of data-parallel ranks, and this one. Model-parallel strategies have fewer than processes."""
        replicas = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)
        if replicas is None:
            return self.trainer.world_size, self.trainer.global_rank
        return replicas["num_replicas"], replicas["rank"]

    def _on_gpu(self) -> bool:
        return self.trainer.strategy.root_device.type == "cuda"

    def _corpus_hash(self) -> str:
        manifest = asdict(self.manifest)
        identity = {key: manifest[key] for key in ("options", "token_dtype", "train", "validation")}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _require_valid_options(self) -> None:
        least = {
            "sequence_length": 1,
            "batch_size": 1,
            "seed": 0,
            "epochs": 1,
            "rows_per_group": 1,
            "validation_batch_size": 1,
            "validation_windows": 1,
            "num_workers": 0,
            "streams": 1,
            "shuffle_shards": 1,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"data option {name} is at least {minimum}, got {value}")
