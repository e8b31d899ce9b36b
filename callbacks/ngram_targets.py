"""NgramTargets: train on the n-gram distribution of the next token beside the token itself (CoCoNTs).

The callback needs ``datamodule.set_target_table(table, alpha)`` (called in ``setup``, before loaders are built): from
then on training batches hold ``targets`` and ``target_weights`` where alpha is not 0. And a module that hands
``batch["target_weights"]`` to its loss, as ``CausalLMModule`` does.

Sathe, Sarawagi, arXiv 2407.02819; the rules are in ``tst_lightning.data.ngram``.
"""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.resuming import SameRunCallback
from tst_lightning.data.ngram.mixing import Alpha
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.errors import UserError


class NgramTargets(SameRunCallback):
    """Trains on ``(1 - alpha) * CE(next token) + alpha * CE(n-gram distribution)``.

    The distribution is the corpus' own, of the last ``n - 1`` tokens, so it has less variance than the one token
    that came, and knows less than the model is to learn: alpha is annealed. Steps at which it is 0 are next-token
    training, bit for bit. The training loss is not a next-token loss meanwhile: compare ``val/loss``.

    Args:
        table: folder that ``tst-lightning ngram`` made of the corpus that is trained on.
        alpha: weight of the n-gram target at first.
        alpha_end: weight that it is annealed to, on a straight line.
        anneal_start: share of ``trainer.max_steps`` after which alpha begins to change.
        anneal_end: share of ``trainer.max_steps`` after which it stays at ``alpha_end``.
        verify: whether the table's files are compared with their checksums before training, which takes about a
            second for a gigabyte.

    Raises:
        UserError: a value out of range (at construction); no table, one that is damaged, or one of another corpus or
            tokenizer; a datamodule that takes none; several corpora; superposition (before any work).
    """

    trained_with = "n-gram targets"

    def __init__(
        self,
        table: str,
        alpha: float = 0.5,
        alpha_end: float = 0.0,
        anneal_start: float = 0.0,
        anneal_end: float = 1.0,
        verify: bool = True,
    ) -> None:
        super().__init__()
        shares = {"alpha": alpha, "alpha_end": alpha_end, "anneal_start": anneal_start, "anneal_end": anneal_end}
        for name, value in shares.items():
            if value is None or not 0 <= value <= 1:  # nor is it, if it is no number
                raise UserError(f"{name}={value}: give a number from 0 to 1")
        if anneal_end < anneal_start:
            raise UserError(f"anneal_end={anneal_end} is before anneal_start={anneal_start}: exchange them")
        self.table = table
        self.verify = verify
        self._options = {name: float(value) for name, value in shares.items()}
        self._table_hash: str | None = None
        self._max_steps = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not callable(getattr(data, "set_target_table", None)):
            raise UserError(
                f"NgramTargets needs set_target_table(table, alpha) on the datamodule ({type(data).__name__}): see the "
                "protocol in callbacks/ngram_targets.py"
            )
        if trainer.max_steps is None or trainer.max_steps < 1:
            raise UserError(
                f"n-gram targets need the run's length in steps, got trainer.max_steps={trainer.max_steps}: "
                "set trainer.max_steps"
            )
        self._max_steps = trainer.max_steps
        table = NgramTable(self.table)
        data.set_target_table(table, self.alpha(trainer.max_steps))
        self._table_hash = table.hash
        if self.verify and trainer.is_global_zero:
            table.verify()

    def alpha(self, max_steps: int) -> Alpha:
        """Weight of the n-gram target by step, in a run of ``max_steps``."""
        first, last = (round(self._options[name] * max_steps) for name in ("anneal_start", "anneal_end"))
        return Alpha(self._options["alpha"], self._options["alpha_end"], first, last)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what another callback's ``setup`` has asked for, and a checkpoint of other targets."""
        schedule = getattr(trainer.datamodule, "schedule", None)
        superposed = [stage for stage in getattr(schedule, "stages", ()) if stage.superposed or stage.bag_size > 1]
        if superposed:
            raise UserError(
                f"NgramTargets does not go with superposition (bags of {superposed[0].target_bag_size} tokens from "
                f"step {superposed[0].first_step}): the table knows the next token only; leave one of the callbacks out"
            )
        super().on_fit_start(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        # The line from alpha to alpha_end is laid out over the run; one that is flat has no length.
        changes = self._options["alpha"] != self._options["alpha_end"]
        length = {"max_steps": self._max_steps if changes else None}
        return {"version": 1, "table": self._table_hash, **length, **self._options}

    def remedy(self, name: str, saved: Any) -> str:
        if name == "table":
            return "set table: to the folder of the checkpoint's run (in its config.yaml)"
        return super().remedy(name, saved)
