"""The manifest of a prepared corpus: what is in the folder, where it came from, and that it is complete.

``manifest.json`` is written last, so a folder without one is not a prepared corpus. Layout::

    DIR/manifest.json
    DIR/tokenizer/        a Hugging Face tokenizer folder
    DIR/train/            litdata token shards, index.json, document_ends.u32
    DIR/validation/       the same
    DIR/evaluation/       items of the bundled downstream tasks
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

FILE_NAME = "manifest.json"
FORMAT_VERSION = 2
TOKEN_DTYPES = ("uint16", "int32")


@dataclass(frozen=True)
class Shard:
    """One file of token ids."""

    file: str
    """Its name in the split's folder."""
    tokens: int
    documents: int
    """Documents that end in it."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True)
class Split:
    """Counts of one split. ``bytes`` is UTF-8 text; ``tokens`` includes one end-of-text per document."""

    documents: int
    bytes: int
    tokens: int
    shards: tuple[Shard, ...]
    """In reading order."""

    @property
    def shard_tokens(self) -> tuple[int, ...]:
        """Tokens in each shard."""
        return tuple(shard.tokens for shard in self.shards)


@dataclass(frozen=True)
class TokenizerInfo:
    vocab_size: int
    """Number of ids; every id in the shards is below it."""
    end_of_text_id: int
    hash: str
    """sha256 over the tokenizer's vocabulary and rules: the same hash means the same ids."""


@dataclass(frozen=True)
class Manifest:
    """What ``prepare`` made. ``options`` holds the source and every option that determines the shards."""

    options: dict[str, Any]
    tokenizer: TokenizerInfo
    token_dtype: str
    train: Split
    validation: Split
    skipped: dict[str, int] = field(default_factory=dict)
    """Documents or files left out, by reason."""
    evaluation_items: dict[str, int] = field(default_factory=dict)
    """Items per bundled downstream task."""
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every file that is no shard, by its path in the folder."""
    format_version: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``: the last act of a preparation."""
        write_atomically(Path(folder) / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Manifest":
        """Read a prepared folder's manifest.

        Raises:
            UserError: there is none, it is not readable as one, or another format version wrote it.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"no prepared corpus at '{folder}' (it has no {FILE_NAME}): "
                f"make one with `tst-lightning prepare --output_dir {folder} ...`"
            )
        try:
            values = json.loads(path.read_text())
            version = values["format_version"]
            if version != FORMAT_VERSION:
                remedy = "prepare the corpus again" if version < FORMAT_VERSION else "install that release"
                age = "an older" if version < FORMAT_VERSION else "a newer"
                raise UserError(
                    f"'{path}' was written by {age} release (format version {version}, this release reads "
                    f"{FORMAT_VERSION}): {remedy}"
                )
            for name in ("train", "validation"):
                shards = tuple(Shard(**shard) for shard in values[name].pop("shards"))
                values[name] = Split(**values[name], shards=shards)
            values["tokenizer"] = TokenizerInfo(**values["tokenizer"])
            manifest = cls(**values)
            manifest._require_plain(path)
            return manifest
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"'{path}' is not a manifest ({error!r}): prepare the corpus again") from error

    def _require_plain(self, path: Path) -> None:
        """Counts are numbers, ids have a width, and no file lies elsewhere: a manifest may come from anywhere."""
        splits = {"train": self.train, "validation": self.validation}
        names = [*self.files, *(f"{name}/{shard.file}" for name, split in splits.items() for shard in split.shards)]
        for name in names:
            if PurePosixPath(name).is_absolute() or {"..", ""} & {*name.split("/")} or "\\" in name:
                raise UserError(f"'{path}' lists '{name}', which is outside its folder: prepare the corpus again")
        counts = [(each.tokens, each.documents) for split in splits.values() for each in (split, *split.shards)]
        if not all(isinstance(count, int) and count >= 0 for pair in counts for count in pair):
            raise UserError(f"'{path}' has counts that are no numbers: prepare the corpus again")
        if self.token_dtype not in TOKEN_DTYPES:
            raise UserError(
                f"'{path}' has token_dtype '{self.token_dtype}', and ids are stored as {' or '.join(TOKEN_DTYPES)}: "
                "prepare the corpus again"
            )
