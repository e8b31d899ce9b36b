"""TensorBoard's events of a run, from its first step on."""

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger


class RunLogger(TensorBoardLogger):
    """Lightning's logger that writes nothing before ``begin``: a start that is refused leaves no file behind.

    Args:
        folder: of the run; the events lie in it, not in a folder of a version.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, name="", version="")
        self._begun = False

    def begin(self) -> None:
        """Training starts now."""
        self._begun = True

    @property
    def experiment(self) -> Any:
        """The writer; before ``begin``, what Lightning asks for in ``setup``, one that takes anything."""
        return super().experiment if self._begun else _Nowhere()

    def save(self) -> None:
        if self._begun:
            super().save()


class _Nowhere:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None
