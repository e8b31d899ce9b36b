"""Evaluate lm-eval tasks on the model while it trains and when it is done."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from callbacks.throughput import Throughput
from tst_lightning.errors import UserError


class DownstreamEvaluation(pl.Callback):
    """Runs lm-eval tasks on the model in memory, at the end of training and every so many steps.

    All tasks are loaded when training starts, so missing data costs seconds and not hours. Training goes on
    exactly as without the evaluation: random states and training modes are restored. Several devices share
    the work. The forward pass runs in the trainer's precision, the log-softmax in 32 bits. A run that an
    exception ends is not evaluated.

    Scores go to the loggers as ``downstream/<task>/<metric>``, lm-eval's standard files to
    ``<default_root_dir>/evaluation/step=N/``.

    Args:
        tasks: names of tasks, groups or tags, or paths of task YAML files. ``heldout`` stands for the bundled
            tasks, which need no network.
        every_n_steps: also evaluate whenever this many optimizer steps are done.
        limit: only the first items of each task.
        batch_tokens: padded tokens per forward pass. Default: 2048 on a CPU, 32768 on a GPU.
        max_length: longest input in tokens. Default: the data module's ``sequence_length`` if it has one, at
            most the model's positions.
        at_end: evaluate when training ends.
        data_dir: the prepared data folder, or its URL, for the tokenizer and the bundled tasks. Default: the
            data module's ``data_dir``.
        task_data_dir: folder of local copies of the data of lm-eval's own tasks, as
            ``tst_lightning.evaluation.local_data`` describes; nothing is downloaded then. Default: the Hugging Face
            cache, then the hub.
        log_items: what the samples files keep of each item: "scores" (number, hash, metrics and log-likelihoods) or
            "full" (the texts too).

    The module needs an attribute ``model``, a Hugging Face causal LM.
    """

    def __init__(
        self,
        tasks: list[str],
        every_n_steps: int | None = None,
        limit: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        at_end: bool = True,
        data_dir: str | None = None,
        task_data_dir: str | None = None,
        log_items: Literal["scores", "full"] = "scores",
    ) -> None:
        super().__init__()
        if isinstance(tasks, str) or not isinstance(tasks, Sequence) or not tasks:
            raise UserError(f"DownstreamEvaluation: tasks is {tasks!r}, and must be a list of at least one name")
        numbers = {"every_n_steps": every_n_steps, "limit": limit}
        numbers |= {"batch_tokens": batch_tokens, "max_length": max_length}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise UserError(f"DownstreamEvaluation: {name} is {value}, and must be at least 1")
        if log_items not in ("scores", "full"):
            raise UserError(f"DownstreamEvaluation: log_items is {log_items!r}, and must be 'scores' or 'full'")
        if not at_end and every_n_steps is None:
            raise UserError(
                "DownstreamEvaluation would never evaluate: set every_n_steps, leave at_end true, or leave the "
                "callback out"
            )
        self.tasks = list(tasks)
        self.every_n_steps = every_n_steps
        self.limit = limit
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.at_end = at_end
        self.data_dir = data_dir
        self.task_data_dir = task_data_dir
        self.log_items = log_items
        self._loaded: dict[str, Any] | None = None
        self._tokenizer: Any = None
        self._step_before: int | None = None
        self._evaluated_step: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load tokenizer and tasks on every rank.

        Raises:
            UserError: a task's data cannot be had, no data folder is known, or the weights are sharded.
        """
        if stage != "fit":
            return
        if type(trainer.strategy).__name__ == "ModelParallelStrategy":
            raise UserError(
                "DownstreamEvaluation cannot use a model whose weights are sharded: leave the callback out, and "
                "evaluate the checkpoints with `tst-lightning evaluate`"
            )
        from tst_lightning.data.tokenizer import load_tokenizer
        from tst_lightning.evaluation.task_loading import load_tasks

        data_dir = self.data_dir or getattr(trainer.datamodule, "data_dir", None)
        if data_dir is None:
            raise UserError(
                "DownstreamEvaluation needs the prepared data folder for its tokenizer, and the data module has "
                "no `data_dir`: give the callback's data_dir"
            )
        self._tokenizer = load_tokenizer(data_dir)
        self._loaded = load_tasks(self.tasks, data_dir, self.task_data_dir)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Under gradient accumulation most batches make no step, and a resumed run starts on a round number.
        stepped = trainer.global_step != self._step_before
        if stepped and self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            clocks = [callback for callback in trainer.callbacks if isinstance(callback, Throughput)]
            with contextlib.ExitStack() as pauses:
                for clock in clocks:
                    pauses.enter_context(clock.paused())
                self._evaluate(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not on_train_end: by now the last checkpoint is written, and a run that was killed while it
        # evaluated does so when it is resumed at its last step. An exception ends a run without this hook.
        if not self.at_end or self._evaluated_step == trainer.global_step:
            return
        # Lightning has moved the model to the CPU by now.
        device = pl_module.model.device
        pl_module.model.to(trainer.strategy.root_device)
        try:
            self._evaluate(trainer, pl_module)
        finally:
            pl_module.model.to(device)

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from tst_lightning.evaluation.adapter import Shard
        from tst_lightning.evaluation.run import evaluate_tasks, longest_input, scores
        from tst_lightning.evaluation.saving import save_results

        step = trainer.global_step
        sequence_length = getattr(trainer.datamodule, "sequence_length", None)
        results = evaluate_tasks(
            pl_module.model,
            self._tokenizer,
            self._loaded,
            source=f"{trainer.default_root_dir} step={step}",
            limit=self.limit,
            max_length=longest_input(pl_module.model, self.max_length or sequence_length),
            batch_tokens=self.batch_tokens,
            forward_context=trainer.precision_plugin.forward_context,
            shard=Shard(
                trainer.global_rank,
                trainer.world_size,
                lambda tensor: trainer.strategy.reduce(tensor, reduce_op="sum"),
            ),
        )
        if trainer.is_global_zero:
            results["config"].update(step=step, precision=trainer.precision)
            save_results(results, Path(trainer.default_root_dir, "evaluation", f"step={step}"), self.log_items)
            tagged = {f"downstream/{name}": value for name, value in scores(results).items()}
            for logger in trainer.loggers:
                logger.log_metrics(tagged, step=step)
        self._evaluated_step = step
