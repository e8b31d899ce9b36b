"""One forward pass over a batch of token trees, and whether a model gives trees the logits of plain rows.

Shapes: B trees of a batch, L their padded length, N scored positions, V vocabulary.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tst_lightning.evaluation.batching import Row, Tree

_SOFTMAX_ROWS = 1024
"""Positions per log-softmax: small enough to stay near the cache, large enough to keep a GPU busy."""
_PADDING = -1


class BatchScorer:
    """Scores batches of trees with a causal language model.

    Args:
        model: called as ``model(input_ids=(B, L), use_cache=False).logits``, for trees also with
            ``position_ids`` and a four-dimensional ``attention_mask``.
        forward_context: entered around each forward pass.
    """

    def __init__(
        self, model: torch.nn.Module, forward_context: Callable[[], AbstractContextManager] = nullcontext
    ) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._forward_context = forward_context

    def score(self, batch: list[Tree]) -> tuple[Tensor, Tensor]:
        """Owners ``(N,)`` int64 and values ``(N, 2)`` float64: log-likelihood, and 1 where greedy misses."""
        length = max(tree.length for tree in batch)
        ids = [[*_tokens(tree), *[0] * (length - tree.length)] for tree in batch]
        ids_BL = torch.tensor(ids).to(self.device, non_blocking=True)
        rows, positions, targets, owners = [], [], [], []
        for number, tree in enumerate(batch):
            for row, places in zip(tree.rows, _places(tree), strict=True):
                for owner, wanted in row.scored:
                    rows += [number] * len(wanted)
                    positions += places[len(places) - len(wanted) :]
                    targets += wanted
                    owners += [owner] * len(wanted)
        where = torch.tensor([rows, positions, targets]).to(self.device, non_blocking=True)
        structure = {} if all(tree.is_row for tree in batch) else self._structure(batch, length)
        logits_NV = self._logits(ids_BL, where[0], where[1], structure)
        values = [
            log_likelihoods(logits, wanted)
            for logits, wanted in zip(logits_NV.split(_SOFTMAX_ROWS), where[2].split(_SOFTMAX_ROWS), strict=True)
        ]
        return torch.tensor(owners), torch.cat(values).cpu().double()

    def can_share(self, max_length: int) -> bool:
        """Whether trees give what plain rows give, tried on a few tokens.

        Models differ in what they make of positions and masks: some attention kernels take no mask, recurrent
        layers ignore it. A tree with a wrong mask would differ from the rows as a tree without one does.
        """
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
        # The short trial would not see that a given mask replaces a model's own window.
        if self._mask_kind() is None or (window is not None and window < max_length):
            return False
        vocabulary = config.vocab_size
        tokens = [(7 * i + 3) % vocabulary for i in range(20)]
        stem, branches = tokens[:5], (tokens[5:9], tokens[9:14], tokens[14:20])
        rows = [Row((*stem, *branch), [(0, [0] * len(branch))]) for branch in branches]
        trial = BatchScorer(self.model)  # without autocast, whose rounding would blur the comparison
        try:
            shared = trial.score([Tree(rows, len(stem))])[1][:, 0]
            unmasked = trial.score([Tree([Row(tuple(tokens), [(0, [0] * 15)])], 20)])[1][:, 0]
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        plain = torch.cat([trial.score([Tree([row], len(row.inputs))])[1][:, 0] for row in rows])
        tolerance = 0.01 if next(self.model.parameters()).dtype.itemsize >= 4 else 0.1
        return bool((shared - plain).abs().max() <= tolerance * (unmasked - plain).abs().max())

    def _mask_kind(self) -> torch.dtype | None:
        return {"sdpa": torch.bool, "eager": torch.float32}.get(
            getattr(self.model.config, "_attn_implementation", None)
        )

    def _structure(self, batch: list[Tree], length: int) -> dict[str, Tensor]:
        """Positions ``(B, L)`` as in the plain rows, and a mask ``(B, 1, L, L)``: own branch and stem, no future."""
        positions, branches = [], []
        for tree in batch:
            padding = length - tree.length
            rests = [range(tree.shared, len(row.inputs)) for row in tree.rows]
            positions.append([*range(tree.shared), *(p for rest in rests for p in rest), *[0] * padding])
            numbers = [number for number, rest in enumerate(rests, 1) for _ in rest]
            branches.append([*[0] * tree.shared, *numbers, *[_PADDING] * padding])
        branches_BL = torch.tensor(branches, device=self.device)
        seen_BLL = (branches_BL[:, None, :] == 0) | (branches_BL[:, None, :] == branches_BL[:, :, None])
        mask = seen_BLL.tril()[:, None]
        if self._mask_kind() is not torch.bool:
            dtype = next(self.model.parameters()).dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=self.device).masked_fill(~mask, torch.finfo(dtype).min)
        return {"position_ids": torch.tensor(positions, device=self.device), "attention_mask": mask}

    def _logits(self, ids_BL: Tensor, rows_N: Tensor, positions_N: Tensor, structure: dict[str, Tensor]) -> Tensor:
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

        head: Any = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(gather) if head is not None else None
        try:
            with self._forward_context():
                logits = self.model(input_ids=ids_BL, use_cache=False, **structure).logits
        finally:
            if handle is not None:
                handle.remove()
        return logits[0] if gathered else logits[rows_N, positions_N]


def log_likelihoods(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Float32 ``(N, 2)``: each target's log-probability, and 1 where the greedy choice is another token."""
    logits_NV = logits_NV.float()
    target_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    misses_N = logits_NV.argmax(dim=1) != targets_N
    return torch.stack([target_N - logits_NV.logsumexp(dim=1), misses_N.float()], dim=1)


def _tokens(tree: Tree) -> list[int]:
    rests = (token for row in tree.rows for token in row.inputs[tree.shared :])
    return [*tree.rows[0].inputs[: tree.shared], *rests]


def _places(tree: Tree) -> list[list[int]]:
    """For each row, where in the tree its tokens stand."""
    places, start = [], tree.shared
    for row in tree.rows:
        end = start + len(row.inputs) - tree.shared
        places.append([*range(tree.shared), *range(start, end)])
        start = end
    return places
