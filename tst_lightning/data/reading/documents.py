"""Where the documents of a split begin and end."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tst_lightning.data.manifest import Split
from tst_lightning.data.reading.order import FieldsOnly
from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME
from tst_lightning.errors import UserError


@dataclass(frozen=True)
class Documents(FieldsOnly):
    """The documents of a split, shard by shard; a document that a shard's end cuts is one in each of the two.

    A *group* is the documents that begin in the same stretch of ``group_tokens`` tokens of a shard. If long
    documents are cut, one of more than ``group_tokens`` tokens is as many documents of that length, and the rest:
    else a group that holds a book would be a book long. Opened on first use, by each process for itself.
    """

    folder: str
    """The split's local folder, with the file of document ends."""
    shard_tokens: tuple[int, ...]
    shard_documents: tuple[int, ...]
    """Documents that end in each shard."""
    group_tokens: int
    cut_long: bool = False
    """Whether documents longer than a group are cut."""

    @classmethod
    def of_split(
        cls,
        folder: str | Path,
        split: Split,
        group_tokens: int,
        sha256: str | None = None,
        cut_long: bool = False,
    ) -> "Documents":
        """Those of a split whose document ends are in ``folder``.

        Args:
            folder: the split's.
            split: as in the manifest.
            group_tokens: see above.
            sha256: of the file of document ends; None, not to compare it.
            cut_long: see above.

        Raises:
            UserError: the file is missing, has another length than the manifest says, or was altered.
        """
        path = Path(folder) / DOCUMENT_ENDS_NAME
        expected = 4 * sum(shard.documents for shard in split.shards)
        if not path.is_file() or path.stat().st_size != expected:
            found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no such file"
            raise UserError(
                f"'{path}' should have {expected:,} bytes, one number for each document ({found}): "
                "prepare the corpus again"
            )
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise UserError(
                    f"'{path}' is not the file that the manifest lists, it was altered: run `tst-lightning verify`, "
                    "or prepare the corpus again"
                )
        shard_documents = tuple(shard.documents for shard in split.shards)
        return cls(str(folder), split.shard_tokens, shard_documents, group_tokens, cut_long)

    @property
    def shard_groups(self) -> tuple[int, ...]:
        """Groups in each shard; the last one may be shorter, and no token is left out."""
        return tuple(-(-tokens // self.group_tokens) for tokens in self.shard_tokens)

    def group(self, shard: int, group: int) -> tuple[np.ndarray, np.ndarray]:
        """First token in the shard, and number of tokens, of each document of a group: int64, in order."""
        bounds = self._bounds(shard)
        begin, end = self._group_starts(bounds, self._edges(shard, np.array([group, group + 1])))
        # Of the same type as the bounds: numpy would convert all of them otherwise.
        first, last = bounds.searchsorted(begin, side="right"), bounds.searchsorted(end)
        inside = bounds[first:last].astype(np.int64)
        edges = np.concatenate([[begin], inside, [end]]).astype(np.int64) if begin < end else np.zeros(1, np.int64)
        return edges[:-1], np.diff(edges)

    @cached_property
    def group_lengths(self) -> np.ndarray:
        """Tokens of every group, in the order of the shards: int64."""
        lengths = [np.empty(0, np.int64)]
        for shard, groups in enumerate(self.shard_groups):
            starts = self._group_starts(self._bounds(shard), self._edges(shard, np.arange(groups + 1)))
            lengths.append(np.diff(starts.astype(np.int64)))
        return np.concatenate(lengths)

    def _edges(self, shard: int, groups: np.ndarray) -> np.ndarray:
        """Where the stretches of ``group_tokens`` tokens begin: uint32."""
        return np.minimum(groups * self.group_tokens, self.shard_tokens[shard]).astype(np.uint32)

    def _group_starts(self, bounds: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """The first document that begins at each of ``edges`` or after it, cut ones included: uint32."""
        following = bounds.searchsorted(edges)
        starts = bounds[following]
        if not self.cut_long:
            return starts
        # The document around an edge begins anew every group_tokens tokens.
        around = bounds[np.maximum(following, 1) - 1].astype(np.int64)
        cuts = around - (around - edges) // self.group_tokens * self.group_tokens
        return np.minimum(cuts, starts).astype(np.uint32)

    def _bounds(self, shard: int) -> np.ndarray:
        """Where the documents of a shard begin, and the shard's end, perhaps twice: uint32, in order."""
        first = self._first_documents[shard]
        ends = self._ends[first : first + self.shard_documents[shard]]
        return np.concatenate([np.zeros(1, np.uint32), ends, np.array([self.shard_tokens[shard]], np.uint32)])

    @cached_property
    def _first_documents(self) -> list[int]:
        return [0, *np.cumsum(self.shard_documents).tolist()]

    @cached_property
    def _ends(self) -> np.ndarray:
        path = Path(self.folder) / DOCUMENT_ENDS_NAME
        # An empty file cannot be mapped.
        return np.memmap(path, dtype="<u4", mode="r") if path.stat().st_size else np.empty(0, np.uint32)
