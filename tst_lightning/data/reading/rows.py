"""What a plan deals out: rows of text, as stretches of tokens in shards; and what it needs of a corpus."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from tst_lightning.data.reading.order import GroupOrder


class Span(NamedTuple):
    """Contiguous tokens of one shard: ``[first_token, first_token + tokens)``."""

    shard: int
    first_token: int
    tokens: int
    corpus: int = 0
    """Number of the corpus in a mixture."""


Row = tuple[Span, ...]
"""One row of a batch: the text at consecutive positions."""


class Stretch(NamedTuple):
    """How a corpus is read while bag size and number of devices stay: what a plan knows of it.

    Groups are counted per stream from the start of the run.
    """

    segment: int
    """Number of the plan's segment."""
    bag_size: int
    first_group: int
    """No earlier segment has touched it or a later one."""
    block_groups: int
    """Consecutive groups whose rows are mixed with one another."""
    batch_rows: int
    """Rows that a stream gives to a micro-batch; in a mixture on average, rounded up."""


class CorpusRows(ABC):
    """The rows of one corpus. Rows are numbered per stream from the start of a stretch."""

    order: GroupOrder
    """The groups in the order in which they are read."""

    def require_bag_sizes(self, bag_sizes: list[int]) -> None:  # noqa: B027 - most take any
        """Raise a ``UserError`` if the corpus cannot be read with one of the bag sizes."""

    @abstractmethod
    def block_groups(self, bag_size: int, batch_rows: int) -> int:
        """Over how many groups rows are mixed when a stream gives ``batch_rows`` rows to a micro-batch."""

    @abstractmethod
    def groups_reached(self, stretch: Stretch, rows: int) -> int:
        """Groups, in whole blocks, that the first ``rows`` rows of a stretch reach into."""

    @abstractmethod
    def row(self, stretch: Stretch, stream: int, number: int) -> Row:
        """Where the tokens of a row are."""

    @abstractmethod
    def targets(self, stretch: Stretch, rows: int) -> int:
        """Tokens that are targets in the first ``rows`` rows of a stretch."""

    @abstractmethod
    def tokens(self, stretch: Stretch, rows: int) -> int:
        """Tokens that the first ``rows`` rows of a stretch read."""

    @abstractmethod
    def group_span_tokens(self, first_group: int, groups: int) -> int:
        """Tokens that ``groups`` groups of a stream hold, from its group ``first_group`` on."""

    @abstractmethod
    def group_description(self) -> str:
        """What a group is, for messages: ``whole groups of 8,200 tokens``."""

    @property
    def tokens_per_pass(self) -> int:
        """Tokens that one pass reads."""
        return self.group_span_tokens(0, self.order.groups_per_stream) * self.order.streams
