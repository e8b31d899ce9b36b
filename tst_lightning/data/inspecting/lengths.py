"""The lengths of a split's documents, and their picture."""

from pathlib import Path

import numpy as np

from tst_lightning.data.manifest import Split
from tst_lightning.data.reading.documents import Documents
from tst_lightning.drawing import COLOURS, STYLE, empty_figure, png

_BARS = 60


def document_lengths(folder: str | Path, split: Split, sha256: str | None = None) -> np.ndarray:
    """Tokens of each document, its end-of-text included: int64.

    Args:
        folder: the split's local folder.
        split: its counts.
        sha256: of the file of document ends; None, not to compare it.

    Raises:
        UserError: the file of document ends does not fit the manifest.
    """
    # With one group a shard.
    documents = Documents.of_split(folder, split, group_tokens=max(split.shard_tokens, default=1), sha256=sha256)
    starts, shard_start, begun = [np.empty(0, np.int64)], 0, 0
    for number, shard in enumerate(split.shards):
        first_tokens, _ = documents.group(number, 0)
        starts.append(shard_start + first_tokens[begun:])
        # The last one goes on in the next shard.
        begun = len(first_tokens) - shard.documents
        shard_start += shard.tokens
    return np.diff(np.concatenate(starts), append=split.tokens)


def length_histogram(lengths: np.ndarray, row_tokens: dict[str, int]) -> bytes:
    """A PNG: how long documents are, and in how long ones the text is.

    Args:
        lengths: tokens of each document, at least one.
        row_tokens: what is marked on the length axis, by its name.
    """
    import matplotlib

    edges = np.unique(np.geomspace(lengths.min(), lengths.max() + 1, _BARS + 1).round())
    with matplotlib.rc_context(STYLE):
        figure, panels = empty_figure(1, 2, (10.5, 3.8))
        for panel, weights, name in zip(panels, (None, lengths), ("documents", "tokens"), strict=True):
            counts, _ = np.histogram(lengths, edges, weights=weights)
            panel.stairs(100 * counts / counts.sum(), edges, fill=True, color=COLOURS[0], alpha=0.85)
            panel.set_xscale("log")
            panel.set_xlabel("length of a document (tokens)")
            panel.set_ylabel(f"{name} (% in each bar)")
            panel.set_ylim(bottom=0)
            panel.grid(axis="x", visible=False)
            for colour, (label, tokens) in zip(COLOURS[1:], row_tokens.items(), strict=False):
                panel.axvline(tokens, color=colour, linestyle="--", linewidth=1.2, label=f"row of {label}: {tokens:,}")
        panels[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return png(figure)
