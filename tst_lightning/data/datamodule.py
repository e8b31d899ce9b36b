"""Batches of prepared corpora for Lightning, with bags as the schedule says and exact resume."""

import math
import warnings
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from tst_lightning.data.ngram.mixing import Alpha, MixedTargets, table_of
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.data.planned import PlannedDataModule
from tst_lightning.data.reading.building import RowBuilder
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.checksums import Patrol, VerifyShards
from tst_lightning.data.reading.coverage import report, require_enough_text
from tst_lightning.data.reading.decomposition import LongDocuments
from tst_lightning.data.reading.loading import PlannedRows, planned_loader, require_planned_batch, window_loader
from tst_lightning.data.reading.mixture import Mixture
from tst_lightning.data.reading.options import replicas, require_decomposable, require_plannable, require_valid_options
from tst_lightning.data.reading.packing import Policy
from tst_lightning.data.reading.prepared import open_corpora, require_cache
from tst_lightning.data.reading.shards import Shards
from tst_lightning.data.reading.stopping import end_waiting_processes
from tst_lightning.data.reading.validation import bytes_per_token, validation_batches, window_counts
from tst_lightning.schedule import Schedule


class TokenDataModule(PlannedDataModule):
    """Reads what ``tst-lightning prepare`` made in the order of a ``reading.plan.Plan``.

    A batch is a dict: ``tokens``, int32 ``(batch_size, sequence_length + 1, bag size)`` on the device, and
    ``micro``, its number as a Python integer. Packed batches also have ``targets``, int32 ``(batch_size,
    sequence_length, bag size)`` with -100 where there is none, and, if documents are isolated,
    ``position_ids``, int32 ``(batch_size, sequence_length)``. Validation batches have bag size 1 and are never
    packed. One epoch of the Trainer is the whole run of ``max_steps``, whatever number of passes over the text
    that takes.

    Args:
        data_dir: folder or URL with a prepared corpus; or a mixture, a mapping from folders or URLs to weights.
            The weights are shares of the training rows (and of the validation windows); they need not sum to 1.
            The corpora of a mixture need the same tokenizer.
        sequence_length: positions of a training row; the model predicts at each of them.
        batch_size: rows per device and micro-batch.
        seed: of the order in which the text is read.
        epochs: how often each corpus may be read. A run that needs more is refused before it starts.
        rows_per_group: rows of ``sequence_length + 1`` tokens that are kept together when the text is
            shuffled. By default the least common multiple of the schedule's bag sizes. To read the same text in the
            same order with and without superposition, set it to the bag size in both.
        packing: how documents are put into rows. ``concat`` reads them one after the other and cuts wherever a
            row is full; ``best_fit`` and ``spfhp`` cut only documents that are longer than a row, fit the others
            together and fill up with padding that nothing is learned from.
        isolate_documents: whether positions count from the start of each document and no document is a target
            of another one; the model must keep them apart in its attention.
        fold_by_document: whether bags of superposition hold tokens of one document only, also if documents are
            concatenated and not isolated. Packed and isolated ones are folded so anyway.
        packing_rows: how much text is packed together: this many times ``rows_per_group`` rows. More of it leaves
            less padding and is shuffled more coarsely.
        validation_batch_size: windows per device and validation batch; by default ``batch_size``.
        validation_windows: how many windows of ``sequence_length + 1`` tokens are validated on, evenly spaced
            over the validation text and always the same ones. All, if there are fewer.
        num_workers: processes that read ahead of training. The batches do not depend on it.
        streams: places in the text that are read in parallel; with as many as devices, each device reads
            files of its own. 1 with packing.
        shuffle_shards: how many files of the text are shuffled together.
        cache_dir: where copies of a remote corpus are kept, by default ``~/.cache/tst-lightning``.
        cache_bytes: how much of all remote corpora together is kept there at a time.
        verify_shards: when checksums of local shards are compared: each before its ``first_read``; ``background``
            also goes ahead through those of the whole run, beside training; or ``none``.
    """

    def __init__(
        self,
        data_dir: dict[str, float] | str,
        sequence_length: int,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        rows_per_group: int | None = None,
        packing: Policy = "concat",
        isolate_documents: bool = False,
        fold_by_document: bool = False,
        packing_rows: int = 256,
        validation_batch_size: int | None = None,
        validation_windows: int = 512,
        num_workers: int = 1,
        streams: int = 1,
        shuffle_shards: int = 8,
        cache_dir: str | None = None,
        cache_bytes: int = 20_000_000_000,
        verify_shards: VerifyShards = "background",
    ) -> None:
        super().__init__()
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = epochs
        self.rows_per_group = rows_per_group
        self.packing, self.packing_rows = packing, packing_rows
        self.isolate_documents = isolate_documents
        self.fold_by_document = fold_by_document
        self.validation_batch_size = batch_size if validation_batch_size is None else validation_batch_size
        self.validation_windows = validation_windows
        self.num_workers = num_workers
        self.streams, self.shuffle_shards = streams, shuffle_shards
        self.cache_bytes, self.verify_shards = cache_bytes, verify_shards
        require_valid_options(self)
        self.corpora = open_corpora(data_dir, cache_dir)
        self.mixture = Mixture(tuple(data_dir.values()) if isinstance(data_dir, dict) else (1.0,), seed)
        self.data_dir, self.manifest = self.corpora[0].data_dir, self.corpora[0].manifest
        """Of a mixture, its first corpus'. The folder or URL has the tokenizer and the evaluation items."""
        self.bag_size = 1
        """Bag size of the current step, for modules that look here. The batches follow ``schedule``."""
        self._cache = ShardCache(cache_dir, cache_bytes)
        self._patrol = Patrol(verify_shards, cache_dir)
        self._builder = RowBuilder(
            self.corpora, sequence_length + 1, streams, shuffle_shards, seed, packing, isolate_documents,
            fold_by_document, packing_rows,
        )  # fmt: skip
        self._target_table: tuple[NgramTable, Alpha] | None = None

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest.tokenizer.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token of the validation text, for bits per byte; mean over the windows."""
        return bytes_per_token([corpus.manifest.validation for corpus in self.corpora], self._window_counts())

    def set_schedule(self, schedule: Schedule) -> None:
        """Replace the schedule; in a callback's ``setup``, which runs before the loaders are built."""
        self.schedule = schedule

    def decompose(self, min_length: int, long_documents: LongDocuments) -> dict[int, int]:
        """Have rows of powers of two, each a piece of one document: in a callback's ``setup``, before the schedule.

        The schedule then says which length a step reads (``Stage.sequence_length``).

        Returns:
            How many tokens of text there are in rows of each length.
        """
        require_decomposable(self, min_length)
        self.decomposition = {"min_length": min_length, "long_documents": long_documents}
        return {bucket.length: bucket.tokens_per_pass for bucket in self._builder.buckets(**self.decomposition)}

    def set_target_table(self, table: NgramTable, alpha: Alpha) -> None:
        """Mix n-gram targets into training batches (``ngram.mixing``), in a callback's ``setup``; ``UserError`` if not.

        A batch of a step whose alpha is not 0 then has ``targets`` and ``target_weights``.
        """
        self._target_table = table_of(self.corpora, table), alpha

    def check(self, max_steps: int, accumulate: int, world_size: int) -> None:
        """Refuse a run that the prepared tokens or the options cannot serve; reads no tokens.

        Args:
            max_steps: optimizer steps of the run.
            accumulate: micro-batches of a step.
            world_size: data-parallel ranks.

        Raises:
            UserError: no ``max_steps``, too few tokens, or sizes that do not divide.
        """
        plan = self.plan_of(accumulate, world_size)
        if self.trainer is None:  # or it is measured when the loaders are built, and a checkpoint's step is known
            require_enough_text(plan, self._names, max_steps, self.epochs)

    def setup(self, stage: str) -> None:
        """Check what can be known without the schedule, which a callback may set only after this."""
        # One worker reads some ten million tokens a second, and validation needs none.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for corpus in self.corpora:
            corpus.require_shards(*(("validation", "train") if stage == "fit" else ("validation",)))
        if stage != "fit":
            return
        self._begin_fit(self.state_dict() if self.trainer.global_step else None)  # the latter if its Trainer goes on
        self._target_table = None
        self._patrol.forget()
        require_plannable(self.trainer)
        shards_here = self.shuffle_shards * math.ceil(self.streams / self.trainer.num_nodes)
        require_cache(self.corpora, shards_here, self.cache_bytes)

    def train_dataloader(self) -> DataLoader:
        """Batches from the Trainer's current step to ``max_steps``."""
        self.check_fit()
        plan, tokens = self._train_plan, [corpus.manifest.train.tokens for corpus in self.corpora]
        for line in report(plan, self._names, tokens, self.trainer.max_steps, self.epochs):
            rank_zero_info(line)
        self._train_rows = PlannedRows(plan, replicas(self.trainer)[1])
        collate = self._builder.collate(self.manifest.tokenizer.end_of_text_id)
        retarget = self._target_table and MixedTargets(*self._target_table, plan.accumulate)
        return planned_loader(self, self._shards("train"), self._train_rows, collate, retarget)

    def val_dataloader(self) -> DataLoader:
        """The validation windows of this rank. Read in this process: there are few, and it takes milliseconds."""
        if self.trainer.state.fn == "fit":  # the sanity check validates before the training loader is asked for
            self.check_fit()
        splits = {corpus.data_dir: corpus.manifest.validation.shard_tokens for corpus in self.corpora}
        sizes = self._window_counts(), self.sequence_length + 1, self.validation_batch_size
        batches = validation_batches(splits, *sizes, *replicas(self.trainer))
        return window_loader(self._shards("validation"), batches, self.trainer)

    def test_dataloader(self) -> DataLoader:
        """The validation windows: a prepared corpus has no third split."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Stop a run whose data and step have drifted apart, or whose shards are damaged; raises ``UserError``."""
        if self.trainer is not None and self.trainer.training:
            self._patrol.watch(self)
            require_planned_batch(batch["micro"], self.trainer.fit_loop.epoch_loop.total_batch_idx + 1)
        return batch

    def on_exception(self, exception: BaseException) -> None:
        """Let no process of this run wait for one that has failed."""
        end_waiting_processes(self.trainer)

    def _shards(self, split: str) -> tuple[Shards, ...]:
        return tuple(corpus.shards(split, self._cache, self._patrol.checksums) for corpus in self.corpora)

    def _window_counts(self) -> tuple[int, ...]:
        splits = [corpus.manifest.validation.shard_tokens for corpus in self.corpora]
        return window_counts(splits, self.mixture.shares, self.sequence_length + 1, self.validation_windows)
