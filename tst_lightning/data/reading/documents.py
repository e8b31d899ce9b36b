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

    A *group* is the documents that begin in the same stretch of ``group_tokens`` tokens of a shard. Opened on
    first use, by each process for itself.
    """

    folder: str
    """The split's local folder, with the file of document ends."""
    shard_tokens: tuple[int, ...]
    shard_documents: tuple[int, ...]
    """Documents that end in each shard."""
    group_tokens: int

    @classmethod
    def of_split(cls, folder: str | Path, split: Split, group_tokens: int, sha256: str | None = None) -> "Documents":
        """Those of a split whose document ends are in ``folder``.

        Args:
            folder: the split's.
            split: as in the manifest.
            group_tokens: see above.
            sha256: of the file of document ends; None, not to compare it.

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
        return cls(str(folder), split.shard_tokens, tuple(shard.documents for shard in split.shards), group_tokens)

    @property
    def shard_groups(self) -> tuple[int, ...]:
        """Groups in each shard; the last one may be shorter, and no token is left out."""
        return tuple(-(-tokens // self.group_tokens) for tokens in self.shard_tokens)

    def group(self, shard: int, group: int) -> tuple[np.ndarray, np.ndarray]:
        """First token in the shard, and number of tokens, of each document of a group: int64, in order."""
        bounds = self._bounds(shard)
        first, last = (
            # Of the same type as the bounds: numpy would convert all of them otherwise.
            bounds.searchsorted(np.uint32(min((group + i) * self.group_tokens, self.shard_tokens[shard])))
            for i in (0, 1)
        )
        part = bounds[first : last + 1].astype(np.int64)
        return part[:-1], np.diff(part)

    @cached_property
    def group_lengths(self) -> np.ndarray:
        """Tokens of every group, in the order of the shards: int64."""
        lengths = [np.empty(0, np.int64)]
        for shard, groups in enumerate(self.shard_groups):
            edges = np.minimum(np.arange(groups + 1) * self.group_tokens, self.shard_tokens[shard]).astype(np.uint32)
            bounds = self._bounds(shard)
            lengths.append(np.diff(bounds[bounds.searchsorted(edges)].astype(np.int64)))
        return np.concatenate(lengths)

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
