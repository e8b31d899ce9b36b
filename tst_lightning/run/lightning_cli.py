"""``fit``, ``validate`` and ``test``: LightningCLI over CausalLMModule and TokenDataModule."""

import sys
import warnings
import zipfile
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.errors import UserError
from tst_lightning.files import require_writable
from tst_lightning.modeling.checked_resuming import CheckedResuming
from tst_lightning.modeling.publishing import recover
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint, require_whole
from tst_lightning.modeling.sharded_reading import let_read
from tst_lightning.modeling.strategies import require_launched, require_mesh
from tst_lightning.module import CausalLMModule
from tst_lightning.parsing.errors import (
    as_user_error,
    config_paths,
    in_one_line,
    raised_before,
    require_config_files,
    with_suggestion,
)
from tst_lightning.run.length import done, warm_up_beyond_end
from tst_lightning.run.logger import RunLogger
from tst_lightning.run.lost_processes import LostProcesses
from tst_lightning.run.options import require_devices, require_model_sizes, require_optimizer, require_run_options
from tst_lightning.run.overlays import require_methods_kept
from tst_lightning.run.progress_bar import count_steps
from tst_lightning.run.resumable import require_own_folder, require_resumable

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
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.begin()
        super().setup(trainer, pl_module, "fit")


class RunCLI(LightningCLI):
    """LightningCLI whose runs live in ``trainer.default_root_dir``: log, config, checkpoints, evaluation."""

    _was_done = False
    """Whether a fit goes on from the end of its run."""

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
        given = sys.argv[1:] if args is None else args
        require_config_files(given)
        require_methods_kept(config_paths(given))
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise UserError(with_suggestion(in_one_line(str(error)), self._option_names())) from error
        config = self.config[self.config.subcommand]
        actions = self._subcommand_parsers[self.config.subcommand]._actions
        require_run_options(config, {action.dest: action.default for action in actions})
        require_one_superposition(config.trainer.callbacks)
        last = Path(config.trainer.default_root_dir or ".") / "checkpoints" / "last.ckpt"
        if config.ckpt_path == "last":
            # Lightning would warn and start over, or validate random weights, where there is none.
            config.ckpt_path = str(last)
        self.recover_checkpoints({str(last), config.ckpt_path or str(last)})
        require_checkpoint(config.ckpt_path)
        if self.config.subcommand != "fit" and not (config.ckpt_path or config.model.pretrained):
            raise UserError(f"nothing to {self.config.subcommand}: give --ckpt_path, or a model.pretrained")

    def recover_checkpoints(self, paths: set[str]) -> None:
        """Put back those that a killed run was about to replace."""
        for path in paths:
            recover(path)

    def before_instantiate_classes(self) -> None:
        """Refuse devices that are not there, and a folder that cannot take the run."""
        trainer = self.config[self.subcommand].trainer
        require_devices(trainer)
        if self.subcommand != "fit":
            trainer.logger = False
            return
        folder = Path(trainer.default_root_dir or ".")
        require_writable(folder, "trainer.default_root_dir")
        require_own_folder(folder, self.config.fit.ckpt_path)

    def instantiate_classes(self) -> None:
        """Build what the config describes; what its classes refuse is the user's to mend."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise raised_before(error) or UserError(
                f"the config does not make a run: {in_one_line(str(error))}"
            ) from error
        require_model_sizes(self.model.config)
        require_optimizer(self.model.optimizer_factory)
        config = self.config[self.subcommand]
        if config.ckpt_path:
            steps = config.trainer.max_steps if self.subcommand == "fit" else None
            step = require_resumable(config.ckpt_path, self.model.config, None if steps == -1 else steps)
            self._was_done = steps is not None and step == steps

    def before_fit(self) -> None:
        """Warn of a run that ends within its warm-up."""
        if message := warm_up_beyond_end(self.model.learning_rate_schedule, self.trainer.max_steps):
            rank_zero_warn(message)

    def after_fit(self) -> None:
        """Say how to train on where there was nothing left to do: the last line, behind what the Trainer restores."""
        if self._was_done:
            rank_zero_info(done(self.trainer.max_steps, self.trainer.callbacks))

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the file once more, and lay ``hyper_parameters`` in it over the config.

        With class paths in them, a checkpoint from elsewhere could choose what is imported and called.
        """

    def _option_names(self) -> list[str]:
        parsers = getattr(self, "_subcommand_parsers", {}).values()
        return [action.dest for parser in parsers for action in parser._actions]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard in the run's folder unless the config says otherwise.

        Not written into the config: the saved one is also there to start other runs from, in folders of their own.
        """
        trainer = self.config[self.subcommand].trainer
        if trainer.logger in (None, True):
            kwargs["logger"] = RunLogger(trainer.default_root_dir or ".")
        try:
            built = super().instantiate_trainer(**kwargs)
        except UserError:
            raise
        except (ValueError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(f"the Trainer refuses its options: {error}") from error
        ckpt_path = self.config[self.subcommand].ckpt_path
        let_read(built, ckpt_path, self.subcommand)
        count_steps(built, self.config[self.subcommand].trainer.callbacks)
        require_mesh(built)
        require_launched(built)
        built.callbacks.insert(0, LostProcesses())
        if ckpt_path is not None:
            built.callbacks.insert(1, CheckedResuming(ckpt_path))
        return built


def require_one_superposition(callbacks: Any) -> None:
    """Refuse two configs of the method laid over each other, of which Lightning would only say that states clash.

    Args:
        callbacks: of the Trainer, as parsed.

    Raises:
        UserError: more than one SuperpositionCallback.
    """
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    names = [str(getattr(callback, "class_path", "")).rpartition(".")[-1] for callback in callbacks]
    if (count := names.count("StepCheckpoint")) > 1:
        raise UserError(
            f"trainer.callbacks has {count} StepCheckpoints, which would write the same last.ckpt: change the options "
            "of the one in your trainer file instead of adding another"
        )
    if (count := names.count("SuperpositionCallback")) > 1:
        raise UserError(
            f"trainer.callbacks has {count} SuperpositionCallbacks, and a run has one schedule: lay over one of "
            "configs/method/tst.yaml, multi_stage.yaml and patch_level.yaml, and set its options there"
        )


def require_checkpoint(path: str | None) -> None:
    """Refuse a ``ckpt_path`` that is none, before anything is built.

    Raises:
        UserError: no such file, or a file or a sharded folder that is no whole checkpoint.
    """
    if path is None or path in ("best", "hpc") or str(path).startswith("registry"):
        return
    if not Path(path).exists():
        raise UserError(f"there is no checkpoint at '{path}': a run keeps its own in DEFAULT_ROOT_DIR/checkpoints")
    if is_sharded_checkpoint(path):
        require_whole(path)
    elif Path(path).is_dir():
        raise UserError(f"'{path}' is a folder, and not a sharded checkpoint: give a .ckpt that a `fit` has written")
    # torch.save writes a zip archive, whose table of contents is its end.
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"'{path}' is not a whole checkpoint: give a .ckpt file that a `fit` has written")


class _Parsed(Exception):
    """Carries a parsed config out of LightningCLI before it seeds or builds anything."""


class _ParseOnly(RunCLI):
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        raise _Parsed(self.config[self.config.subcommand])

    def recover_checkpoints(self, paths: set[str]) -> None:
        """Nothing: to parse changes no file."""


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
