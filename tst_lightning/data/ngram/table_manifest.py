"""What an n-gram table is, of which corpus, and the checksums of its files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tst_lightning.data.manifest import FILE_NAME
from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

FORMAT_VERSION = 1
KIND = "n-gram table"


@dataclass(frozen=True)
class TableManifest:
    """What a table is, and of what."""

    options: dict[str, Any]
    """``NgramOptions``."""
    data_dir: str
    """Of the corpus, as the user gave it."""
    corpus_hash: str
    tokenizer_hash: str
    token_dtype: str
    shard_tokens: tuple[int, ...]
    """Of the training split."""
    rows: int
    """With row 0."""
    statistics: dict[str, Any]
    files: dict[str, dict[str, Any]]
    """``bytes`` and ``sha256`` of each."""
    format_version: int = FORMAT_VERSION
    kind: str = KIND

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``: the last act of a build."""
        write_atomically(folder / FILE_NAME, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "TableManifest":
        """Read a table's manifest.

        Raises:
            UserError: there is none, it is none of a table, or another format version wrote it.
        """
        path = Path(folder) / FILE_NAME
        make = f"make one with `tst-lightning ngram DATA_DIR --output_dir {folder}`"
        if not path.is_file():
            raise UserError(f"no n-gram table at '{folder}' (it has no {FILE_NAME}): {make}")
        try:
            values = json.loads(path.read_text())
            if values.get("kind") != KIND:
                raise UserError(f"'{folder}' holds something else than an n-gram table: {make}")
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"'{path}' was written by another release (format version {version}, this release reads "
                    f"{FORMAT_VERSION}): build the table again, or install that release"
                )
            return cls(**values | {"shard_tokens": tuple(values["shard_tokens"])})
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(f"'{path}' is not a manifest ({error!r}): build the table again") from error
