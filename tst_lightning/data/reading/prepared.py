"""The prepared corpora that a run reads, each opened by its manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from tst_lightning.data.manifest import Manifest, Split
from tst_lightning.data.reading.cache import ShardCache
from tst_lightning.data.reading.checksums import ShardChecksums
from tst_lightning.data.reading.shards import Shards, require_shards
from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME, shard_bytes
from tst_lightning.data.storage import is_remote, local_folder
from tst_lightning.errors import UserError

SMALL_FILE_BYTES = 64_000_000
"""Compared with the manifest at every start, in less than a tenth of a second."""


@dataclass(frozen=True)
class PreparedCorpus:
    """A folder or URL that ``tst-lightning prepare`` made, and what its manifest says."""

    data_dir: str
    """As the user gave it."""
    folder: Path
    """Local, with everything but the shards of a remote corpus."""
    manifest: Manifest

    @cached_property
    def hash(self) -> str:
        """The same hash means the same documents in the same shards, wherever they lie and were prepared from."""
        identity = {
            name: [(shard.sha256, shard.tokens, shard.documents) for shard in self.split(name).shards]
            for name in ("train", "validation")
        }
        identity |= {"token_dtype": self.manifest.token_dtype, "document_ends": self.document_ends_sha256}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def document_ends_sha256(self) -> str | None:
        """Of the training split's file of document ends, if the manifest lists it."""
        return self.manifest.files.get(f"train/{DOCUMENT_ENDS_NAME}")

    def split(self, name: str) -> Split:
        """``train`` or ``validation``."""
        return getattr(self.manifest, name)

    def shards(self, split: str, cache: ShardCache, checksums: ShardChecksums | None = None) -> Shards:
        """The token ids of a split; ``cache`` is for those of a remote corpus, ``checksums`` for a local one's."""
        listed = self.split(split).shards, self.manifest.token_dtype, self.manifest.tokenizer.vocab_size
        if is_remote(self.data_dir):
            return Shards(f"{self.data_dir.rstrip('/')}/{split}", *listed, cache)
        return Shards(str(self.folder / split), *listed, checksums=checksums)

    def require_shards(self, *splits: str) -> None:
        """Compare the files of local splits with the manifest, shards by their size; raises ``UserError``."""
        for split in splits if not is_remote(self.data_dir) else ():
            require_shards(self.folder / split, self.split(split), self.manifest.token_dtype)
            self._require_small_files(split)

    def _require_small_files(self, split: str) -> None:
        """Compare the checksums of a local split's other files and of the tokenizer; those that lack are not missed."""
        for name, sha256 in self.manifest.files.items():
            path = self.folder / name
            if name.startswith((f"{split}/", "tokenizer/")) and path.is_file():
                if path.stat().st_size > SMALL_FILE_BYTES:
                    continue  # the ends of a billion documents: compared where they are used
                found = hashlib.sha256(path.read_bytes()).hexdigest()
                if found != sha256:
                    raise UserError(
                        f"'{path}' is not the file that the manifest lists (sha256 {found[:12]}..., expected "
                        f"{sha256[:12]}...): it was altered, or manifest.json is another corpus'. Run `tst-lightning "
                        "verify` for the whole list, then copy or prepare the corpus again"
                    )

    def bytes_in_use(self, shards_in_use: int) -> int:
        """Of a remote corpus: what so many training shards take up in the cache."""
        if not is_remote(self.data_dir):
            return 0
        sizes = sorted(shard_bytes(n, self.manifest.token_dtype) for n in self.manifest.train.shard_tokens)
        return sum(sizes[-shards_in_use:])


def open_corpora(data_dir: str | Mapping[str, float], cache_dir: str | None) -> tuple[PreparedCorpus, ...]:
    """The corpora of a ``data_dir`` option: one, or the keys of a mapping in their order.

    Raises:
        UserError: there is none, one is no prepared corpus, two are the same, or their tokenizers differ.
    """
    # A mapping with a mistake reaches us as the text that it is.
    if not isinstance(data_dir, str | Path | Mapping) or (isinstance(data_dir, str) and data_dir[:1] in ("{", "[")):
        raise UserError(f"data_dir={data_dir} is no mapping from folders to numbers, as in {{a: 0.7, b: 0.3}}")
    names = [data_dir] if isinstance(data_dir, str | Path) else list(data_dir)
    if not names:
        raise UserError("data_dir names no corpus: give a folder, or a mapping from folders to weights")
    folders = [local_folder(name, cache_dir) for name in names]
    corpora = tuple(
        PreparedCorpus(str(name), Path(folder), Manifest.load(folder))
        for name, folder in zip(names, folders, strict=True)
    )
    for one, other in combinations(corpora, 2):
        if one.hash == other.hash:
            raise UserError(
                f"'{one.data_dir}' and '{other.data_dir}' are the same corpus, and its text would be read twice: "
                "name it once, with the sum of the weights"
            )
    first = corpora[0]
    for other in corpora[1:]:
        if other.manifest.tokenizer.hash != first.manifest.tokenizer.hash:
            raise UserError(
                f"the corpora '{first.data_dir}' and '{other.data_dir}' of a mixture have different tokenizers "
                f"({first.manifest.tokenizer.vocab_size} and {other.manifest.tokenizer.vocab_size} tokens): "
                "prepare both with the same one"
            )
    return corpora


def require_cache(corpora: Sequence[PreparedCorpus], shards_in_use: int, cache_bytes: int) -> None:
    """Refuse a cache that would fetch the same shards again and again.

    Args:
        corpora: local and remote ones; only the latter count.
        shards_in_use: of each corpus, by all ranks of this machine at a time.
        cache_bytes: what the cache may hold.

    Raises:
        UserError: it is too small.
    """
    # One more is fetched while they are in use.
    needed = sum(corpus.bytes_in_use(shards_in_use + 1) for corpus in corpora)
    if needed > cache_bytes:
        most = max(len(corpus.manifest.train.shards) for corpus in corpora if is_remote(corpus.data_dir))
        raise UserError(
            f"cache_bytes={cache_bytes:,} is less than the {needed:,} bytes of the {min(most, shards_in_use + 1)} "
            f"shards of each remote corpus (or all that it has) that are in use or fetched at a time: set "
            f"cache_bytes={needed}, or lower shuffle_shards or streams"
        )
