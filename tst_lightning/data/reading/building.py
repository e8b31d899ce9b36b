"""From prepared corpora and options to the rows that a plan deals out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tst_lightning.data.reading.concat import ConcatRows
from tst_lightning.data.reading.documents import Documents
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
    packing_rows: int
    """A packed group has ``packing_rows * group_rows`` rows of single tokens."""
    _made: dict[int, tuple[CorpusRows, ...]] = field(default_factory=dict)

    @property
    def packed(self) -> bool:
        """Whether rows are packed from documents, rather than contiguous text."""
        return self.packing != "concat" or self.isolate

    def rows(self, group_rows: int) -> tuple[CorpusRows, ...]:
        """The rows of each corpus in groups of ``group_rows`` rows; raises ``UserError``."""
        if group_rows not in self._made:
            make = self._packed if self.packed else self._concat
            self._made[group_rows] = tuple(
                make(number, corpus, group_rows) for number, corpus in enumerate(self.corpora)
            )
        return self._made[group_rows]

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
        documents = Documents.of_split(
            corpus.folder / "train", corpus.manifest.train, group_rows * self.row_tokens, corpus.document_ends_sha256
        )
        packing = GroupPacking(documents, self.row_tokens, self.packing, self.isolate)
        return PackedRows(self._order(number, documents.shard_groups), packing, group_rows)

    def _order(self, number: int, shard_groups: tuple[int, ...]) -> GroupOrder:
        return GroupOrder(shard_groups, self.streams, self.shuffle_shards, self.seed, number)
