"""What the callbacks that lay out a whole run share: a checkpoint of other settings is not gone on from."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.errors import UserError

_LISTED = 4
"""Numbers of a list that a message shows."""


class SameRunCallback(Callback):
    """Compares ``state_dict()`` with the checkpoint's before the first step, and refuses to go on if they differ.

    A subclass calls ``super().__init__()``; its ``state_dict`` has a ``version`` and what determines the run.
    """

    trained_with: str
    """For the message: ``superposition``."""
    not_compared: frozenset[str] = frozenset()
    """Keys of the state that may differ: they are there for messages."""

    def __init__(self) -> None:
        self._saved_state: dict[str, Any] = {}
        self._saved_step: int | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the checkpoint was trained with, to compare it in a fit: a validation may go on with any."""
        self._saved_state = state_dict

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep how many steps it has: the Trainer knows only later."""
        self._saved_step = checkpoint.get("global_step")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of another run; raises ``UserError``."""
        self.require_same_run(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same refusal where a strategy restores a checkpoint after ``on_fit_start``, as sharded ones do."""
        self.require_same_run(pl_module)

    def require_same_run(self, pl_module: LightningModule) -> None:
        """Raise a ``UserError`` that names every difference, if there is one: then, now, and what to do."""
        current = self.state_dict()
        version = self._saved_state.get("version", current["version"])
        if version != current["version"]:
            raise UserError(
                f"the checkpoint holds {self.trained_with} state of version {version}, and this is "
                f"{current['version']}: it was written by another release, which has to finish it"
            )
        differing = {
            name: (saved, value)
            for name, value in current.items()
            if name not in self.not_compared and (saved := self._saved_state.get(name, value)) != value
        }
        if differing:
            raise UserError(self.refusal(differing, pl_module))

    def refusal(self, differing: dict[str, tuple[Any, Any]], pl_module: LightningModule) -> str:
        """The message.

        Args:
            differing: by name, the values of the checkpoint and of this run.
            pl_module: of the run.
        """
        values = "; ".join(
            f"{name} {_short(saved)}, this run has {_short(value)}" for name, (saved, value) in differing.items()
        )
        remedies = " and ".join(self.remedy(name, saved) for name, (saved, _) in differing.items())
        return (
            f"the checkpoint was trained with {self.trained_with} {values}: {remedies} to go on, or start a new run "
            "without --ckpt_path"
        )

    def remedy(self, name: str, saved: Any) -> str:
        """What to set, that ``name`` may be as in the checkpoint."""
        if name == "max_steps":
            return f"set --trainer.max_steps {saved}" if saved is not None else "set what the checkpoint's run had"
        return f"set {name}: {_short(saved)} in {type(self).__name__}"


def _short(value: Any) -> Any:
    """Enough of a hash, and of a list."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        numbers = ", ".join(str(_short(one)) for one in value[:_LISTED])
        return f"[{numbers}{', ...' if len(value) > _LISTED else ''}]"
    return value
