"""Damage in a checkpoint is found before a run goes on from it."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from tst_lightning.errors import UserError
from tst_lightning.modeling.checksums import require_intact_file
from tst_lightning.modeling.other_checkpoints import remedy
from tst_lightning.modeling.publishing import together
from tst_lightning.modeling.sharded_checkpoint import WEIGHTS, require_intact


class CheckedResuming(Callback):
    """Compares the checksums in a checkpoint before the Trainer loads it, each process those of its share.

    Args:
        ckpt_path: which the Trainer is given too; it keeps it to itself. Names of Lightning's, such as ``best``, and
            what is not on this machine's file system are passed over.
    """

    def __init__(self, ckpt_path: str) -> None:
        self.ckpt_path = ckpt_path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a damaged one in all processes alike; raises ``UserError``."""
        path = self.ckpt_path
        if not Path(path).exists():  # in no process, then: `require_checkpoint` has ended one that lacks it alone
            return
        share = (trainer.global_rank, trainer.world_size)

        def compare() -> None:
            try:
                if Path(path).is_dir():  # the optimizer's state in it is read by a fit alone
                    require_intact(path, "" if stage == "fit" else WEIGHTS, *share)
                else:
                    require_intact_file(path, *share)
            except OSError:
                raise
            except UserError as error:
                raise OSError(str(error)) from error  # which `together` takes to the others
            except Exception as error:  # whatever it is, the others wait for this process
                raise OSError(
                    f"the checkpoint '{path}' cannot be compared with its checksums ({type(error).__name__}: {error}): "
                    f"{remedy(path)}"
                ) from error

        try:
            together(trainer.strategy, compare)
        except OSError as failure:
            if failure.errno is None:
                raise UserError(str(failure)) from failure
            raise UserError(f"the checkpoint '{path}' cannot be read ({failure.strerror}): {remedy(path)}") from failure
