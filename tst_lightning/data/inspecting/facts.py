"""The table of ``tst-lightning inspect``."""

from collections.abc import Mapping

import numpy as np

from tst_lightning.data.manifest import Split


def corpus_facts(
    splits: Mapping[str, tuple[Split, np.ndarray]], row_tokens: Mapping[str, int]
) -> list[tuple[str, ...]]:
    """Rows of text, the first of which is the head.

    Args:
        splits: by their name, with the tokens of each of their documents.
        row_tokens: of which documents to tell how much text is in longer ones, by the name of the row.
    """
    columns = [_column(name, *split, row_tokens) for name, split in splits.items()]
    labels = ["", "documents", "tokens", "MB of text", "shards", "tokens per byte of text"]
    labels += [f"tokens of a document: {what}" for what in ("mean", "median", "longest")]
    labels += [f"tokens in documents longer than a row of {name} ({n:,})" for name, n in row_tokens.items()]
    return list(zip(labels, *columns, strict=True))


def share_in_longer(lengths: np.ndarray, row_tokens: int) -> float:
    """Share of the tokens that lie in documents longer than a row."""
    return float(lengths[lengths > row_tokens].sum() / max(1, lengths.sum()))


def _column(name: str, split: Split, lengths: np.ndarray, row_tokens: Mapping[str, int]) -> list[str]:
    counts = [f"{split.documents:,}", f"{split.tokens:,}", f"{split.bytes / 1e6:,.2f}", f"{len(split.shards):,}"]
    per_byte = f"{split.tokens / max(1, split.bytes):.3f}"
    some = lengths if len(lengths) else np.zeros(1)
    of_documents = [f"{some.mean():,.1f}", f"{np.median(some):,.0f}", f"{some.max():,.0f}"]
    shares = [f"{share_in_longer(lengths, tokens):.1%}" for tokens in row_tokens.values()]
    return [name, *counts, per_byte, *of_documents, *shares]
