"""Which text a micro-batch has: for messages, and for whoever looks into a loss that is out of order."""

from typing import Any, NamedTuple


class ReadSpan(NamedTuple):
    """Tokens ``[first_token, end_token)`` of a shard's file."""

    corpus: str
    """Its folder or URL."""
    file: str
    """In that folder."""
    first_token: int
    end_token: int


def text_of_batch(data: Any, micro: int, rank: int) -> list[list[ReadSpan]]:
    """The text of each row of a training micro-batch, one span unless the row is packed.

    Args:
        data: the ``TokenDataModule`` in its fit; of another data module, which has no ``plan``, nothing is known.
        micro: number of the micro-batch in the run.
        rank: data-parallel rank.
    """
    plan = getattr(data, "plan", None)
    if plan is None or not hasattr(plan, "batch"):
        return []
    return [[_named(data.corpora[span.corpus], span) for span in row] for row in plan.batch(micro, rank)]


def described(rows: list[list[ReadSpan]], most: int = 4) -> str:
    """The first rows in words: ``'corpus/train/chunk-0-0.bin' tokens 34 to 51``."""
    named = [
        " and ".join(f"'{span.corpus}/{span.file}' tokens {span.first_token:,} to {span.end_token:,}" for span in row)
        for row in ([*row[:most]] for row in rows[:most])
    ]
    more = f"; and {len(rows) - most} more rows" if len(rows) > most else ""
    return "; ".join(named) + more


def _named(corpus: Any, span: Any) -> ReadSpan:
    shard = corpus.manifest.train.shards[span.shard]
    return ReadSpan(
        corpus.data_dir.rstrip("/"), f"train/{shard.file}", span.first_token, span.first_token + span.tokens
    )
