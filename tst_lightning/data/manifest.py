"""The manifest of a prepared corpus: what is in the folder, where it came from, and that it is complete.

``manifest.json`` is written last, so a folder without one is not a prepared corpus. Layout::

    DIR/manifest.json
    DIR/tokenizer/        a Hugging Face tokenizer folder
    DIR/train/            litdata token shards
    DIR/validation/       litdata token shards
    DIR/evaluation/       items of the bundled downstream tasks
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Counts of one split. ``bytes`` is UTF-8 text; ``tokens`` includes one end-of-text per document."""

    documents: int
    bytes: int
    tokens: int
    shard_tokens: tuple[int, ...]
    """Tokens in each shard, in shard order."""


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
    format_version: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``: the last act of a preparation."""
        (Path(folder) / FILE_NAME).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

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
                raise UserError(
                    f"'{path}' has format version {version}, this release reads {FORMAT_VERSION}: "
                    "prepare the corpus again"
                )
            for name in ("train", "validation"):
                shard_tokens = tuple(values[name].pop("shard_tokens"))
                values[name] = Split(**values[name], shard_tokens=shard_tokens)
            values["tokenizer"] = TokenizerInfo(**values["tokenizer"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(f"'{path}' is not a manifest ({error!r}): prepare the corpus again") from error
