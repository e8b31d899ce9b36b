"""``fit``, ``validate`` and ``test``: LightningCLI over CausalLMModule and TokenDataModule."""

import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.files import require_writable
from tst_lightning.module import CausalLMModule
from tst_lightning.parsing import as_user_error

_STRICT = {"exit_on_error": False, "allow_abbrev": False}
PARSER = _STRICT | dict.fromkeys(("fit", "validate", "test"), _STRICT)
"""Errors are raised instead of printed, and ``--trainer.max_step`` is a mistake, not ``max_steps``."""


class SaveRunConfig(SaveConfigCallback):
    """Keeps the resolved config as ``config.yaml`` in the run's folder, once training really starts.

    Lightning's own saves in ``setup``, which would overwrite a run's config with that of a refused resume, and
    also while validating.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: the run may still be refused."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")


class RunCLI(LightningCLI):
    """LightningCLI whose runs live in ``trainer.default_root_dir``: log, config, checkpoints, evaluation."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            CausalLMModule,
            TokenDataModule,
            seed_everything_default=0,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            **kwargs,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"trainer.use_distributed_sampler": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        require_one_superposition(config.trainer.callbacks)
        checkpoints = Path(config.trainer.default_root_dir or ".") / "checkpoints"
        if config.ckpt_path == "last":
            # Lightning would warn and start over, or validate random weights, where there is none.
            config.ckpt_path = str(checkpoints / "last.ckpt")
        require_checkpoint(config.ckpt_path)
        if self.config.subcommand != "fit" and not (config.ckpt_path or config.model.pretrained):
            raise UserError(f"nothing to {self.config.subcommand}: give --ckpt_path, or a model.pretrained")

    def before_instantiate_classes(self) -> None:
        """Refuse a folder that cannot take the run."""
        trainer = self.config[self.subcommand].trainer
        if self.subcommand != "fit":
            trainer.logger = False
            return
        folder = Path(trainer.default_root_dir or ".")
        require_writable(folder, "trainer.default_root_dir")
        if not self.config.fit.ckpt_path and (folder / "checkpoints" / "last.ckpt").exists():
            raise UserError(
                f"trainer.default_root_dir '{folder}' holds the checkpoints of another run, which this one would "
                "overwrite: resume it with --ckpt_path last, or choose another folder"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard in the run's folder unless the config says otherwise.

        Not written into the config: the saved one is also there to start other runs from, in folders of their own.
        """
        trainer = self.config[self.subcommand].trainer
        if trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(trainer.default_root_dir or ".", name="", version="")
        try:
            return super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"the Trainer refuses its options: {error}") from error


def require_one_superposition(callbacks: Any) -> None:
    """Refuse two configs of the method laid over each other, of which Lightning would only say that states clash.

    Args:
        callbacks: of the Trainer, as parsed.

    Raises:
        UserError: more than one SuperpositionCallback.
    """
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    names = [str(getattr(callback, "class_path", "")).rpartition(".")[-1] for callback in callbacks]
    if (count := names.count("SuperpositionCallback")) > 1:
        raise UserError(
            f"trainer.callbacks has {count} SuperpositionCallbacks, and a run has one schedule: lay over one of "
            "configs/method/tst.yaml, multi_stage.yaml and patch_level.yaml, and set its options there"
        )


def require_checkpoint(path: str | None) -> None:
    """Refuse a ``ckpt_path`` that is none, before anything is built.

    Raises:
        UserError: no such file, or a file that is no whole checkpoint.
    """
    if path is None or path in ("best", "hpc") or str(path).startswith("registry"):
        return
    if not Path(path).exists():
        raise UserError(f"there is no checkpoint at '{path}': a run keeps its own in DEFAULT_ROOT_DIR/checkpoints")
    # torch.save writes a zip archive, whose table of contents is its end.
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"'{path}' is not a whole checkpoint: give a .ckpt file that a `fit` has written")


class _Parsed(Exception):
    """Carries a parsed config out of LightningCLI before it seeds or builds anything."""


class _ParseOnly(RunCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        raise _Parsed(self.config[self.config.subcommand])


def run(arguments: Sequence[str]) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Raises:
        UserError: an argument or a config that does not parse.
    """
    _quiet()
    with as_user_error():
        # LightningCLI warns of arguments that stand beside those of the command line; None means the latter.
        same = list(arguments) == sys.argv[1:]
        RunCLI(args=None if same else list(arguments), parser_kwargs=PARSER)


def parse_fit(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse the arguments of a ``fit`` (what follows the command's name) without building anything.

    Returns:
        The resolved configuration, defaults included: what the run will keep as its ``config.yaml``.

    Raises:
        UserError: they would not parse.
    """
    _quiet()
    with as_user_error():
        try:
            _ParseOnly(args=["fit", *arguments], parser_kwargs=PARSER)
        except _Parsed as parsed:
            return parsed.args[0].as_dict()
    raise AssertionError("LightningCLI has stopped parsing")


def _quiet() -> None:
    """Silence warnings that a user can do nothing about; each is about how libraries call one another."""
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*does not have many workers.*",
        ".*LightningCLI's args.*",
        ".*but have no logger configured.*",  # `validate` prints its table and keeps no log
    ):
        warnings.filterwarnings("ignore", message=message)
