"""A causal language model in memory, as lm-eval sees it.

lm-eval's own ``HFLM`` needs ``accelerate``, takes the log-softmax in the precision of the logits (bfloat16
ties then favour the first choice), cancels an outer autocast and applies the head to every position. This
adapter scores the same token windows and differs in those four points. Requests that begin alike, such as the
choices of an item, run their common beginning once where the model allows it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from torch import Tensor
from tqdm import tqdm

from tst_lightning.errors import UserError
from tst_lightning.evaluation.batching import Row, batches, single_rows, trees
from tst_lightning.evaluation.forward import BatchScorer

CPU_BATCH_TOKENS = 2048
"""Measured on models of width 64 and 256 and vocabularies of 257 to 50304: 4096 takes 1.0 to 1.3 times as long, 1024
about the same."""
GPU_BATCH_TOKENS = 32768
_SCORED_LOGITS_PER_BATCH = 2**27
"""Bound on N * V in a batch: half a GiB of float32 logits."""


@dataclass(frozen=True)
class Shard:
    """This process's share of the batches, and how the shares are added up.

    Every rank gets every request and every result; the batches between are dealt out in turn, the same
    number to each rank, as sharded models require. ``reduce`` sums a tensor over the ranks.
    """

    rank: int = 0
    world_size: int = 1
    reduce: Callable[[Tensor], Tensor] = field(default=lambda tensor: tensor)


class InMemoryLM(TemplateLM):
    """lm-eval interface of a Hugging Face causal LM object.

    The caller is responsible for evaluation mode and for switching gradients off.

    Args:
        model: called as ``model(input_ids=(rows, tokens), use_cache=False).logits``; if it takes ``position_ids``
            and a four-dimensional ``attention_mask`` as Llama does, beginnings are shared.
        tokenizer: a Hugging Face tokenizer whose ids the model knows.
        max_length: longest input in tokens; longer contexts lose their beginning. Default: the model's
            number of positions.
        batch_tokens: padded tokens per forward pass. Default: few enough for a CPU's caches, or plenty for a
            GPU.
        forward_context: entered around each forward pass; autocast goes here. The log-softmax is float32
            in any case.
        shard: this process's part when several evaluate together.
        share_beginnings: run what several inputs begin with once. Off, or for models that cannot, each input
            runs whole.
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
        share_beginnings: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length or resolve_max_length(model.config)
        self._scorer = BatchScorer(model, forward_context)
        self._share_beginnings = share_beginnings
        self._shard = shard or Shard()
        # lm-eval's own chatter is muted by redirecting standard error; the bar keeps the real one.
        self._progress_file = sys.stderr if progress else None
        default = CPU_BATCH_TOKENS if self._scorer.device.type == "cpu" else GPU_BATCH_TOKENS
        self.batch_tokens = batch_tokens or default
        self._vocab_size = model.config.get_text_config().vocab_size
        self._encoded: dict[tuple[str, bool], list[int]] = {}
        _check_tokenizer(tokenizer, self._vocab_size)
        self._prefix_text = tokenizer.decode(self.prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        special = self._adds_special_tokens(string) if add_special_tokens is None else add_special_tokens
        known = self._encoded.get((string, special))
        if known is None:
            known = self.tokenizer.encode(string, add_special_tokens=special, verbose=False)
        return known

    def _adds_special_tokens(self, string: str) -> bool:
        """The tokenizer's default, except that a text which brings its own first token gets no second."""
        return not has_bos_prefix(string, self._prefix_text)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._encoded = self._encode_texts([request.args for request in requests])
        try:
            return super().loglikelihood(requests, disable_tqdm=True)
        finally:
            self._encoded = {}

    def _encode_texts(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, bool], list[int]]:
        """What ``TemplateLM`` will ask ``tok_encode`` for, in few calls of the tokenizer."""
        texts: dict[bool, set[str]] = {False: set(), True: set()}
        for context, continuation in pairs:
            if context == "":
                texts[False].add(continuation)
                continue
            for text in (context.rstrip(), context + continuation):
                texts[self._adds_special_tokens(text)].add(text)
        encoded = {}
        for special, several in texts.items():
            ordered = sorted(several)
            if ordered:
                found = self.tokenizer(ordered, add_special_tokens=special, verbose=False)["input_ids"]
                encoded.update(zip(((text, special) for text in ordered), found, strict=True))
        return encoded

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
        rows = self._rows(requests)
        grouped = trees(rows) if self._share_beginnings else single_rows(rows)
        if not all(tree.is_row for tree in grouped) and not self._can_share():
            grouped = single_rows(rows)
        todo = list(batches(grouped, self.batch_tokens, _SCORED_LOGITS_PER_BATCH // self._vocab_size))
        # Column 0 sums log-likelihoods, column 1 counts tokens that greedy decoding would not have chosen.
        scores = torch.zeros(len(requests), 2, dtype=torch.float64)
        rank, world_size = self._shard.rank, self._shard.world_size
        rounds = -(-len(todo) // world_size)
        steps = tqdm(range(rounds), file=self._progress_file, disable=not self._progress_file, leave=False)
        for step in steps:
            index = step * world_size + rank
            owners, values = self._scorer.score(todo[min(index, len(todo) - 1)])
            if index < len(todo):  # otherwise run for the sake of the other ranks only
                scores.index_add_(0, owners, values)
        if world_size > 1:
            scores = self._shard.reduce(scores.to(self._scorer.device)).cpu()
        return [(log_likelihood, misses == 0) for log_likelihood, misses in scores.tolist()]

    def _can_share(self) -> bool:
        """The same answer on all ranks, since they deal the same batches out."""
        able = torch.tensor([self._scorer.can_share(self.max_length)], dtype=torch.float64)
        if self._shard.world_size > 1:
            able = self._shard.reduce(able.to(self._scorer.device)).cpu()
        return able.item() == self._shard.world_size

    def _rows(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[Row]:
        """Distinct inputs; requests with the same input share a forward pass."""
        rows: dict[tuple[int, ...], Row] = {}
        for owner, (_, context, continuation) in enumerate(requests):
            for inputs, targets in self._windows(context, continuation):
                rows.setdefault(inputs, Row(inputs, [])).scored.append((owner, targets))
        return list(rows.values())

    def _windows(self, context: list[int], continuation: list[int]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Inputs and targets that score ``continuation``: one pair, or several if it exceeds the model."""
        tokens = context + continuation
        stride = len(continuation) if len(continuation) <= self.max_length else max(1, self.max_length // 2)
        for start in range(0, len(continuation), max(1, stride)):
            targets = continuation[start : start + stride]
            end = len(context) + start + len(targets)
            yield tuple(tokens[max(0, end - self.max_length - 1) : end - 1]), targets


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
