"""The targets of a training batch: the token that came, and the n-gram distribution of what comes.

``(1 - alpha) * CE(one-hot) + alpha * CE(n-gram)`` is one multi-hot cross-entropy with the weights of both, because
cross-entropy is linear in its target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tst_lightning.bags import IGNORE
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.data.reading.prepared import PreparedCorpus
from tst_lightning.data.reading.rows import Row
from tst_lightning.errors import UserError


@dataclass(frozen=True)
class Alpha:
    """Weight of the n-gram target by optimizer step: ``start``, then on a straight line to ``end``."""

    start: float
    end: float
    first_step: int
    """The line begins here ..."""
    last_step: int
    """... and ends here."""

    def at(self, step: int) -> float:
        """Of optimizer step ``step``, counted from 0."""
        if step < self.first_step:
            return self.start
        if step >= self.last_step:
            return self.end
        return self.start + (step - self.first_step) / (self.last_step - self.first_step) * (self.end - self.start)


@dataclass(frozen=True)
class MixedTargets:
    """Makes the targets of a micro-batch in the process that loads it. Picklable.

    Shape letters: B rows, L positions, k = r + 2 targets of a position.
    """

    table: NgramTable
    alpha: Alpha
    accumulate: int
    """Micro-batches of an optimizer step."""

    def __call__(self, micro: int, rows: Sequence[Row], batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What replaces or joins the entries of a batch; nothing at steps where alpha is 0.

        Args:
            micro: number of the micro-batch.
            rows: where its text is.
            batch: ``tokens``, ``(B, L + 1, 1)``; if packed, ``targets``, which say what is no target.

        Returns:
            ``targets``, int32 ``(B, L, k)``: the token that came, the top ``r`` of its context, a tail token; and
            ``target_weights``, fp32 ``(B, L, k)``, which sum to 1, or to 0 where there is no target.
        """
        alpha = self.alpha.at(micro // self.accumulate)
        if alpha == 0:
            return {}
        tokens = batch["tokens"].numpy()[..., 0]
        ids, weights = self.table.targets([span[:3] for row in rows for span in row])
        targets = np.empty((*tokens.shape, ids.shape[1] + 1), np.int32)
        target_weights = np.empty(targets.shape, np.float32)
        targets[..., 0], target_weights[..., 0] = tokens, 1 - alpha
        weights *= np.float32(alpha)
        if len(ids) == tokens.size:
            targets[..., 1:] = ids.reshape(*tokens.shape, -1)
            target_weights[..., 1:] = weights.reshape(*tokens.shape, -1)
        else:  # packed rows end with padding
            is_text = np.arange(tokens.shape[1]) < np.array([[sum(span.tokens for span in row)] for row in rows])
            targets[is_text, 1:], target_weights[is_text, 1:] = ids, weights
        targets, target_weights = targets[:, 1:], target_weights[:, 1:]
        if "targets" in batch:
            no_target = batch["targets"].numpy()[..., 0] == IGNORE
            targets[no_target], target_weights[no_target] = IGNORE, 0
        mixed = {"targets": targets, "target_weights": target_weights}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in mixed.items()}


def table_of(corpora: Sequence[PreparedCorpus], table: NgramTable) -> NgramTable:
    """The table, if it is one of the training text; raises ``UserError`` if not."""
    if len(corpora) > 1:
        raise UserError(
            f"the n-gram table '{table.path}' is of one corpus, and data_dir names {len(corpora)}: train on one, or "
            "without n-gram targets"
        )
    table.require_corpus(corpora[0])
    return table
