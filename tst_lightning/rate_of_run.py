"""The scheduler of a run: what steps ``learning_rate``'s factor with the optimizer."""

from torch.optim.lr_scheduler import LambdaLR


class RateOfRun(LambdaLR):
    """A ``LambdaLR``, known by its class: a subclass of the module, or a callback, may bring another scheduler."""

    def set_rates(self) -> None:
        """Set the optimizer's rates to those of the current step, as ``step`` does to those of the next."""
        # Groups that a callback has added behind those of the scheduler keep the rate that it gave them.
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=False):
            group["lr"] = base * factor(self.last_epoch)
