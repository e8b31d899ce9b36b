"""Reading spans of tokens from a folder of litdata shards."""

import json
from pathlib import Path

import torch

from tst_lightning.data.manifest import Split
from tst_lightning.data.reading.plan import Span
from tst_lightning.errors import UserError


class Shards:
    """Spans of the token shards of one split, opened on the first read.

    Opening lazily lets each worker process map the files itself.

    Args:
        folder: the split's folder of litdata shards, local.
        group_tokens: the unit in which litdata reads; no span crosses a multiple of it inside its shard.
        shard_tokens: tokens in each shard.
    """

    def __init__(self, folder: str | Path, group_tokens: int, shard_tokens: tuple[int, ...]) -> None:
        self.folder = str(folder)
        self.group_tokens = group_tokens
        self._first_groups = [0]
        for tokens in shard_tokens:
            self._first_groups.append(self._first_groups[-1] + tokens // group_tokens)
        self._dataset = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_dataset": None}

    def read(self, spans: list[Span]) -> torch.Tensor:
        """The tokens of ``spans``, all of the same length.

        Returns:
            int32 tensor ``(len(spans), tokens)``; the shards' unsigned types can do no arithmetic in torch.
        """
        rows = torch.empty(len(spans), spans[0].tokens, dtype=torch.int32)
        for row, span in zip(rows, spans, strict=True):
            group, first = divmod(span.first_token, self.group_tokens)
            row.copy_(self._read_group(span.shard, group)[first : first + span.tokens])
        return rows

    def _read_group(self, shard: int, group: int) -> torch.Tensor:
        from litdata.streaming.sampler import ChunkedIndex

        if self._dataset is None:
            from litdata import StreamingDataset, TokensLoader

            self._dataset = StreamingDataset(self.folder, item_loader=TokensLoader(self.group_tokens))
        # With a plain integer litdata would search the shards one after the other.
        return self._dataset[ChunkedIndex(index=self._first_groups[shard] + group, chunk_index=shard)]


def require_shards(folder: Path, split: Split) -> None:
    """Compare a split's shards with its manifest, by their index and the presence of the files.

    Raises:
        UserError: the index or a shard is missing, or they hold other numbers of tokens.
    """
    remedy = "prepare the corpus again"
    try:
        chunks = json.loads((folder / "index.json").read_text())["chunks"]
        tokens = tuple(chunk["dim"] for chunk in chunks)
    except FileNotFoundError:
        raise UserError(f"'{folder}' has no index.json: {remedy}") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        message = f"'{folder}/index.json' is not an index of token shards ({error!r}): {remedy}"
        raise UserError(message) from error
    if tokens != tuple(split.shard_tokens):
        raise UserError(
            f"'{folder}' holds {len(tokens)} shards with {sum(tokens)} tokens, but the manifest lists "
            f"{len(split.shard_tokens)} with {sum(split.shard_tokens)}: {remedy}"
        )
    missing = [chunk["filename"] for chunk in chunks if not (folder / chunk["filename"]).is_file()]
    if missing:
        raise UserError(f"'{folder}' lacks {len(missing)} shards, the first is '{missing[0]}': {remedy}")
