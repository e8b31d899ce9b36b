"""A callback for runs under test: how often layers compute."""

from lightning.pytorch import Callback


class ForwardCounter(Callback):
    """Ends the run with an error unless each layer's MLP has begun so many times for each micro-batch."""

    def __init__(self, times: int) -> None:
        self.times, self.begun, self.batches, self.layers = times, 0, 0, 0

    def on_fit_start(self, trainer, pl_module):
        def count(part, _inputs):
            self.begun += part.training

        parts = [part for name, part in pl_module.model.named_modules() if name.endswith(".mlp")]
        self.layers = len(parts)
        for part in parts:
            part.register_forward_pre_hook(count)

    def on_train_batch_end(self, *_):
        self.batches += 1

    def on_train_end(self, trainer, pl_module):
        expected = self.times * self.layers * self.batches
        if not 0 < self.begun == expected:
            raise AssertionError(f"{self.layers} layers began {self.begun} times in {self.batches} micro-batches")
