"""From prepared corpora and options to the rows that a plan deals out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tst_lightning.data.reading.concat import ConcatRows
from tst_lightning.data.reading.decomposed import Bucket
from tst_lightning.data.reading.decomposition import Decomposition, LongDocuments
from tst_lightning.data.reading.documents import Documents
from tst_lightning.data.reading.loading import Collate, fold_rows, pack_rows
from tst_lightning.data.reading.order import GroupOrder
from tst_lightning.data.reading.pack_groups import GroupPacking
from tst_lightning.data.reading.packed import PackedRows
from tst_lightning.data.reading.packing import Policy
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.data.reading.rows import CorpusRows
from tst_lightning.errors import UserError


@dataclass(frozen=True)
class RowBuilder:
    """Makes the rows of every corpus; what it has made it keeps, because counting packed rows takes time."""

    corpora: Sequence[PreparedCorpus]
    row_tokens: int
    """Sequence length + 1."""
    streams: int
    shuffle_shards: int
    seed: int
    packing: Policy
    isolate: bool
    fold_by_document: bool
    packing_rows: int
    """A packed group has ``packing_rows * group_rows`` rows of single tokens."""
    _made: dict[int, tuple[CorpusRows, ...]] = field(default_factory=dict)
    _buckets: dict[tuple, tuple[Bucket, ...]] = field(default_factory=dict)

    @property
    def packed(self) -> bool:
        """Whether rows are packed from documents, rather than contiguous text."""
        return self.packing != "concat" or self.isolate or self.fold_by_document

    def collate(self, end_of_text_id: int) -> Collate:
        """What makes a batch of rows; ``end_of_text_id`` fills up packed ones."""
        return partial(pack_rows, end_of_text_id, self.isolate) if self.packed else fold_rows

    def rows(self, group_rows: int) -> tuple[CorpusRows, ...]:
        """The rows of each corpus in groups of ``group_rows`` rows; raises ``UserError``."""
        if group_rows not in self._made:
            make = self._packed if self.packed else self._concat
            self._made[group_rows] = tuple(
                make(number, corpus, group_rows) for number, corpus in enumerate(self.corpora)
            )
        return self._made[group_rows]

    def buckets(self, min_length: int, long_documents: LongDocuments) -> tuple[Bucket, ...]:
        """The rows of the one corpus cut into powers of two, short to long; raises ``UserError``."""
        key = (min_length, long_documents)
        if key not in self._buckets:
            documents = self._documents(self.corpora[0], self.packing_rows * self.row_tokens)
            exponents = range(min_length.bit_length() - 1, (self.row_tokens - 1).bit_length())
            cut = Decomposition(documents, tuple(2**k for k in exponents), self.seed, long_documents)
            order = self._order(0, documents.shard_groups)
            buckets = (Bucket(order, cut, length) for length in cut.lengths)
            self._buckets[key] = tuple(bucket for bucket in buckets if bucket.rows_per_pass)
            if not self._buckets[key]:
                raise UserError(
                    f"no document of '{self.corpora[0].data_dir}' has the {min_length + 1} tokens of a row of "
                    f"min_length={min_length}: lower min_length"
                )
        return self._buckets[key]

    def _concat(self, number: int, corpus: PreparedCorpus, group_rows: int) -> ConcatRows:
        groups = tuple(n // (group_rows * self.row_tokens) for n in corpus.manifest.train.shard_tokens)
        order = self._order(number, groups)
        if order.groups_per_stream == 0:
            raise UserError(
                f"'{corpus.data_dir}' has {corpus.manifest.train.tokens:,} tokens, its shards hold {sum(groups)} rows "
                f"of {group_rows * self.row_tokens:,} (sequence_length {self.row_tokens - 1} + 1, times bag size or "
                f"rows_per_group {group_rows}), and streams={self.streams} needs {self.streams}: prepare more text, or "
                "lower sequence_length, the bag size or streams"
            )
        return ConcatRows(order, self.row_tokens, group_rows)

    def _packed(self, number: int, corpus: PreparedCorpus, group_rows: int) -> PackedRows:
        group_rows *= self.packing_rows
        # Cut where a group is full, which is where a row is full with bags of any size of the run.
        documents = self._documents(corpus, group_rows * self.row_tokens, cut_long=True)
        packing = GroupPacking(documents, self.row_tokens, self.packing, self.isolate)
        return PackedRows(self._order(number, documents.shard_groups), packing, group_rows)

    def _documents(self, corpus: PreparedCorpus, group_tokens: int, cut_long: bool = False) -> Documents:
        folder, split = corpus.folder / "train", corpus.manifest.train
        return Documents.of_split(folder, split, group_tokens, corpus.document_ends_sha256, cut_long)

    def _order(self, number: int, shard_groups: tuple[int, ...]) -> GroupOrder:
        return GroupOrder(shard_groups, self.streams, self.shuffle_shards, self.seed, number)
