"""The n-gram table on disk: its manifest, and the targets of any stretch of the text.

::

    DIR/manifest.json
    DIR/ids.uint16       top r tokens of each row: (rows, r), in the dtype of the corpus; row 0 is the one-hot
    DIR/weights.f32      their weights and that of a tail token: (rows, r + 1), summing to 1
    DIR/rows.u32         row of every token of the training text
    DIR/tails.uint16     tail token of every token of the training text; where the row is 0, the token itself

So it takes 6 bytes a token of the corpus (three times the corpus itself) with a vocabulary below 65,537, else 8; and
``6 * r + 4`` bytes a row (else ``8 * r + 4``).
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from tst_lightning.cores import available_cores
from tst_lightning.data.ngram.options import NgramOptions
from tst_lightning.data.ngram.table_manifest import TableManifest
from tst_lightning.data.reading.order import FieldsOnly
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.errors import UserError

IGNORE = -100
"""Target id that no loss counts; that of ``bags``, which imports torch."""


@dataclass(frozen=True)
class NgramTable(FieldsOnly):
    """Targets by position in the training text. Picklable; files are opened on first use, by each process.

    Raises:
        UserError: there is no table of this format version at ``path``, or a file of it is missing or truncated.
    """

    path: str

    def __post_init__(self) -> None:
        problems = []
        for name, listed in self.manifest.files.items():
            file = Path(self.path, name)
            size_bytes = file.stat().st_size if file.is_file() else None
            if size_bytes is None:
                problems.append(f"lacks '{name}'")
            elif size_bytes != listed["bytes"]:
                problems.append(f"has '{name}' with {size_bytes:,} bytes instead of {listed['bytes']:,}")
        self._refuse(problems)

    @cached_property
    def manifest(self) -> TableManifest:
        return TableManifest.load(self.path)

    @property
    def options(self) -> NgramOptions:
        return NgramOptions(**self.manifest.options)

    @property
    def hash(self) -> str:
        """The same hash means the same targets of the same text."""
        manifest = self.manifest
        identity = [manifest.corpus_hash, manifest.tokenizer_hash, manifest.options, manifest.files]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def require_corpus(self, corpus: PreparedCorpus) -> None:
        """Raise ``UserError`` if the table is of another corpus or of another tokenizer."""
        listed = self.manifest
        again = f"build one with `tst-lightning ngram {corpus.data_dir} --output_dir ...`"
        for what, of_table, of_corpus in (
            ("tokenizer", listed.tokenizer_hash, corpus.manifest.tokenizer.hash),
            ("text", listed.corpus_hash, corpus.hash),
        ):
            if of_table != of_corpus:
                raise UserError(
                    f"the n-gram table '{self.path}' was built from '{listed.data_dir}' ({what} {of_table[:12]}), "
                    f"and '{corpus.data_dir}' has another {what} ({of_corpus[:12]}): {again}"
                )

    def verify(self) -> None:
        """Compare the files with their checksums, about a second for a gigabyte; raises ``UserError``."""

        def problem(name: str) -> str | None:
            with Path(self.path, name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            return None if found == self.manifest.files[name]["sha256"] else f"has '{name}' altered"

        with ThreadPoolExecutor(available_cores()) as executor:
            self._refuse([found for found in executor.map(problem, self.manifest.files) if found])

    def targets(self, spans: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """The targets of stretches of the text, of the tokens in them (which follow their contexts).

        Args:
            spans: ``(shard, first token, tokens)`` of each.

        Returns:
            Ids, int32 ``(T, r + 1)``, ``IGNORE`` where there is none, and their weights, fp32 ``(T, r + 1)``, which
            sum to 1; for all spans, one after the other. The last is the tail token, or the one-hot.
        """
        places = [slice(first := self._starts[shard] + start, first + tokens) for shard, start, tokens in spans]
        rows = np.concatenate([self._rows[place] for place in places])
        weights = self._weights.take(rows, axis=0)
        ids = np.empty(weights.shape, np.int32)
        ids[:, :-1] = self._ids.take(rows, axis=0)
        ids[:, -1] = np.concatenate([self._tails[place] for place in places])
        ids[weights == 0] = IGNORE
        return ids, weights

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise UserError(
                f"the n-gram table '{self.path}' {' and '.join(problems)}, it was truncated or altered: build it again"
            )

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate(self.manifest.shard_tokens, initial=0))

    @cached_property
    def _ids(self) -> np.ndarray:
        return self._map("ids", self.manifest.token_dtype).reshape(self.manifest.rows, self.options.r)

    @cached_property
    def _weights(self) -> np.ndarray:
        return self._map("weights", "f32").reshape(self.manifest.rows, self.options.r + 1)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self._map("rows", "u32")

    @cached_property
    def _tails(self) -> np.ndarray:
        return self._map("tails", self.manifest.token_dtype)

    def _map(self, name: str, kind: str) -> np.ndarray:
        dtype = {"f32": "<f4", "u32": "<u4"}.get(kind, kind)
        # A plain array: slices of a numpy.memmap cost ten times as much.
        return np.memmap(Path(self.path, f"{name}.{kind}"), dtype=dtype, mode="r").view(np.ndarray)
