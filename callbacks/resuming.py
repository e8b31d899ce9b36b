"""What the callbacks that lay out a whole run share: a checkpoint of other settings is not gone on from."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.errors import UserError


class SameRunCallback(Callback):
    """Compares ``state_dict()`` with the checkpoint's before the first step, and refuses to go on if they differ.

    A subclass calls ``super().__init__()``; its ``state_dict`` has a ``version`` and what determines the run.
    """

    trained_with: str
    """For the message: ``superposition``."""
    remedy: str
    """What to do about it, a clause: ``resume with the same settings, or start a new run``."""

    def __init__(self) -> None:
        self._saved_state: dict[str, Any] = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the checkpoint was trained with, to compare it in a fit: a validation may go on with any."""
        self._saved_state = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of another run; raises ``UserError``."""
        self.require_same_run()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same refusal where a strategy restores a checkpoint after ``on_fit_start``, as sharded ones do."""
        self.require_same_run()

    def require_same_run(self) -> None:
        """Raise a ``UserError`` that names the first difference, if there is one."""
        current = self.state_dict()
        version = self._saved_state.get("version", current["version"])
        if version != current["version"]:
            raise UserError(
                f"the checkpoint holds {self.trained_with} state of version {version}, and this is "
                f"{current['version']}: it was written by another release, which has to finish it"
            )
        for name, value in current.items():
            saved = self._saved_state.get(name, value)
            if saved != value:
                raise UserError(
                    f"the checkpoint was trained with {self.trained_with} {name} {_short(saved)}, this run has "
                    f"{_short(value)}: {self.remedy}"
                )


def _short(value: Any) -> Any:
    """Enough of a hash."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
