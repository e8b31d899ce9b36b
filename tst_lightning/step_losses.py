"""The losses of an optimizer step as they are logged: those that its gradient comes from."""

import torch
from torch import Tensor, distributed


class StepLosses:
    """Means over the micro-batches of a step and over all processes; a micro-batch of one process is a part of it.

    Nothing here waits for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._micro_batches = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count a micro-batch with the same losses, by name, as the others of its step; scalars."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss.detach() if self._micro_batches else loss.detach()
        self._micro_batches += 1

    def take(self, processes: int) -> dict[str, Tensor]:
        """The means by name, and begin anew. All ``processes`` of the run have to come here.

        Empty if nothing was counted, as by a subclass with a training step of its own.
        """
        if not self._micro_batches:
            return {}
        means = torch.stack(list(self._sums.values())) / (self._micro_batches * processes)
        if processes > 1:
            distributed.all_reduce(means)  # not the strategy's ``reduce``, whose barrier makes the host wait
        names, self._sums, self._micro_batches = list(self._sums), {}, 0
        return dict(zip(names, means, strict=True))
