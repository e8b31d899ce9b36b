"""A causal language model in memory, as lm-eval sees it.

lm-eval's own ``HFLM`` needs ``accelerate``, takes the log-softmax in the precision of the logits (bfloat16
ties then favour the first choice), cancels an outer autocast and applies the head to every position. This
adapter scores the same token windows and differs in those four points.

Shapes: B rows of a batch, L their padded length, N scored positions, V vocabulary.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from torch import Tensor
from tqdm import tqdm

from tst_lightning.errors import UserError

CPU_BATCH_TOKENS = 4096
"""Measured on models of width 64 and 128: 16384 is 1.2 to 1.8 times slower."""
GPU_BATCH_TOKENS = 32768
_SCORED_LOGITS_PER_BATCH = 2**27
"""Bound on N * V in a batch: half a GiB of float32 logits."""
_SOFTMAX_ROWS = 1024
"""Positions per log-softmax: small enough to stay near the cache, large enough to keep a GPU busy."""


@dataclass(frozen=True)
class Shard:
    """This process's share of the batches, and how the shares are added up.

    Every rank gets every request and every result; the batches between are dealt out in turn, the same
    number to each rank, as sharded models require. ``reduce`` sums a tensor over the ranks.
    """

    rank: int = 0
    world_size: int = 1
    reduce: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)


@dataclass
class _Row:
    """One distinct input and everything scored on it: (request, targets) pairs, targets at its end."""

    inputs: tuple[int, ...]
    scored: list[tuple[int, list[int]]]

    @property
    def positions(self) -> int:
        return sum(len(targets) for _, targets in self.scored)


class InMemoryLM(TemplateLM):
    """lm-eval interface of a Hugging Face causal LM object.

    The caller is responsible for evaluation mode and for switching gradients off.

    Args:
        model: called as ``model(input_ids=(B, L), use_cache=False).logits``.
        tokenizer: a Hugging Face tokenizer whose ids the model knows.
        max_length: longest input in tokens; longer contexts lose their beginning. Default: the model's
            number of positions.
        batch_tokens: padded tokens per forward pass. Default: few enough for a CPU's caches, or plenty for a
            GPU.
        forward_context: entered around each forward pass; autocast goes here. The log-softmax is float32
            in any case.
        shard: this process's part when several evaluate together.
        progress: show a bar on standard error.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        forward_context: Callable[[], AbstractContextManager] = nullcontext,
        shard: Shard | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length or resolve_max_length(model.config)
        self._forward_context = forward_context
        self._shard = shard or Shard()
        # lm-eval's own chatter is muted by redirecting standard error; the bar keeps the real one.
        self._progress_file = sys.stderr if progress else None
        self._device = next(model.parameters()).device
        default = CPU_BATCH_TOKENS if self._device.type == "cpu" else GPU_BATCH_TOKENS
        self.batch_tokens = batch_tokens or default
        self._vocab_size = model.config.get_text_config().vocab_size
        # The choices of an item share their context, which is tokenised once per choice otherwise.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)
        _check_tokenizer(tokenizer, self._vocab_size)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._encode(string, add_special_tokens)

    def _encode_uncached(self, string: str, add_special_tokens: bool | None) -> list[int]:
        if add_special_tokens is None:
            # The tokenizer's default, except that a text which brings its own first token gets no second.
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list[float]:
        windows, owners = [], []
        for owner, request in enumerate(requests):
            (text,) = request.args
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += log_likelihood
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        raise UserError(
            "tasks that generate text are not supported: choose tasks that score log-likelihoods "
            "(multiple choice, last word, perplexity)"
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation and whether greedy decoding would produce it.

        Args:
            requests: (anything, context tokens, continuation tokens); contexts are not empty.
        """
        batches = list(self._batches(self._rows(requests)))
        # Column 0 sums log-likelihoods, column 1 counts tokens that greedy decoding would not have chosen.
        scores = torch.zeros(len(requests), 2, dtype=torch.float64)
        rank, world_size = self._shard.rank, self._shard.world_size
        rounds = -(-len(batches) // world_size)
        steps = tqdm(range(rounds), file=self._progress_file, disable=not self._progress_file, leave=False)
        for step in steps:
            index = step * world_size + rank
            owners, values = self._score(batches[min(index, len(batches) - 1)])
            if index < len(batches):  # otherwise run for the sake of the other ranks only
                scores.index_add_(0, owners, values)
        if world_size > 1:
            scores = self._shard.reduce(scores.to(self._device)).cpu()
        return [(log_likelihood, misses == 0) for log_likelihood, misses in scores.tolist()]

    def _rows(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[_Row]:
        """Distinct inputs, longest first; requests with the same input share a forward pass."""
        rows: dict[tuple[int, ...], _Row] = {}
        for owner, (_, context, continuation) in enumerate(requests):
            for inputs, targets in self._windows(context, continuation):
                rows.setdefault(inputs, _Row(inputs, [])).scored.append((owner, targets))
        return sorted(rows.values(), key=lambda row: (-len(row.inputs), row.inputs))

    def _windows(self, context: list[int], continuation: list[int]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Inputs and targets that score ``continuation``: one pair, or several if it exceeds the model."""
        tokens = context + continuation
        stride = len(continuation) if len(continuation) <= self.max_length else max(1, self.max_length // 2)
        for start in range(0, len(continuation), max(1, stride)):
            targets = continuation[start : start + stride]
            end = len(context) + start + len(targets)
            yield tuple(tokens[max(0, end - self.max_length - 1) : end - 1]), targets

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        batch: list[_Row] = []
        positions = 0
        for row in rows:
            positions += row.positions
            too_long = batch and (len(batch) + 1) * len(batch[0].inputs) > self.batch_tokens
            if too_long or (batch and positions * self._vocab_size > _SCORED_LOGITS_PER_BATCH):
                yield batch
                batch, positions = [], row.positions
            batch.append(row)
        if batch:
            yield batch

    def _score(self, batch: list[_Row]) -> tuple[Tensor, Tensor]:
        """Owners ``(N,)`` int64 and values ``(N, 2)`` float64: log-likelihood, and 1 where greedy misses."""
        ids_BL = torch.zeros(len(batch), len(batch[0].inputs), dtype=torch.long)
        rows, positions, targets, owners = [], [], [], []
        for number, row in enumerate(batch):
            length = len(row.inputs)
            ids_BL[number, :length] = torch.tensor(row.inputs)
            for owner, wanted in row.scored:
                rows += [number] * len(wanted)
                positions += range(length - len(wanted), length)
                targets += wanted
                owners += [owner] * len(wanted)
        where = torch.tensor([rows, positions, targets]).to(self._device, non_blocking=True)
        logits_NV = self._logits(ids_BL.to(self._device, non_blocking=True), where[0], where[1])
        values = [
            _log_likelihoods(logits, wanted)
            for logits, wanted in zip(logits_NV.split(_SOFTMAX_ROWS), where[2].split(_SOFTMAX_ROWS), strict=True)
        ]
        return torch.tensor(owners), torch.cat(values).cpu().double()

    def _logits(self, ids_BL: Tensor, rows_N: Tensor, positions_N: Tensor) -> Tensor:
        """Logits ``(N, V)`` at the given places, by letting the head see only those.

        The hidden states are gathered on their way into the head, so whatever the model does to its logits
        afterwards (scaling, soft-capping) still happens. Right padding needs no mask: a causal model's
        scored positions do not see it. Where the head is not called as expected, all logits are computed.
        """
        gathered = False

        def gather(_: torch.nn.Module, arguments: tuple) -> tuple | None:
            nonlocal gathered
            if gathered or not arguments or arguments[0].shape[:2] != ids_BL.shape:
                return None
            gathered = True
            return (arguments[0][rows_N, positions_N].unsqueeze(0), *arguments[1:])

        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(gather) if head is not None else None
        try:
            with self._forward_context():
                logits = self.model(input_ids=ids_BL, use_cache=False).logits
        finally:
            if handle is not None:
                handle.remove()
        return logits[0] if gathered else logits[rows_N, positions_N]


def _log_likelihoods(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Float32 ``(N, 2)``: each target's log-probability, and 1 where the greedy choice is another token."""
    logits_NV = logits_NV.float()
    target_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    misses_N = logits_NV.argmax(dim=1) != targets_N
    return torch.stack([target_N - logits_NV.logsumexp(dim=1), misses_N.float()], dim=1)


def _check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {vocab_size}: "
            "evaluate with the data folder that the model was trained on"
        )
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has neither a beginning-of-text nor an end-of-text token, and texts without "
            "context need one in front: set its `bos_token` or `eos_token`"
        )
