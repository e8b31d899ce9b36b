"""What n-gram targets cost: tokens a second and core of building a table, its memory, and a training step with it.

    python benchmarks/ngram.py                                  # the table of data/books, then the steps
    python benchmarks/ngram.py --table data/books_ngram4        # the steps only
    python benchmarks/ngram.py --n 6 --workers 1

Building is timed in processor time of all processes, so that other load on the machine counts little. A training
step is timed with the loading of its batch, in one thread: a step with one-hot targets and one with the table's take
turns, over the same text with the same model and optimizer (one copy each); means of processor time and medians of
wall time count.
"""

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch
from transformers import LlamaConfig

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.ngram.mixing import Alpha
from tst_lightning.data.ngram.table import NgramTable
from tst_lightning.module import CausalLMModule

LEAST_RATE = 1e6
"""Tokens a second and core."""
MOST_RATIO = 1.05
"""Of a step with the table to one with one-hot targets."""


def build(options: argparse.Namespace, folder: Path) -> bool:
    """Run the command; print what it took. Whether it is as fast as it should be."""
    tokens = Manifest.load(options.data_dir).train.tokens
    command = [sys.executable, "-m", "tst_lightning.cli", "ngram", options.data_dir, "--output_dir", str(folder)]
    command += ["--n", str(options.n), "--r", str(options.r), "--workers", str(options.workers)]
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"building failed with status {os.waitstatus_to_exitcode(status)}")
    wall = time.perf_counter() - started
    rate = tokens / (usage.ru_utime + usage.ru_stime)
    print(
        f"built from {tokens:,} tokens in {wall:.1f} s with {options.workers} workers: {rate / 1e6:.2f} million tokens "
        f"a second and core (at least {LEAST_RATE / 1e6:.0f}), largest process {usage.ru_maxrss / 1e3:,.0f} MB"
    )
    return rate >= LEAST_RATE


class Run:
    """A model with its batches, trained a step at a time."""

    def __init__(self, module: CausalLMModule, batches: Iterator[dict]) -> None:
        self.module = module
        self.batches = batches
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        self.cpu_seconds: list[float] = []
        self.wall_seconds: list[float] = []

    def step(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.module.training_step(next(self.batches), 0).backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.wall_seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)


def batches(options: argparse.Namespace, table: NgramTable | None) -> Iterator[dict]:
    """Those of a fit; with a table, of steps whose alpha is 1/2."""
    data = TokenDataModule(options.data_dir, options.sequence_length, options.batch_size, num_workers=0)
    trainer = lightning.Trainer(
        max_steps=options.steps + 5, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.strategy.connect(lightning.LightningModule())
    trainer.state.fn = "fit"
    trainer.datamodule, data.trainer = data, trainer
    data.setup("fit")
    if table is not None:
        data.set_target_table(table, Alpha(0.5, 0.5, 0, 1))
    return iter(data.train_dataloader())


def compare_steps(options: argparse.Namespace, table: NgramTable) -> bool:
    """Time the steps; print what they took. Whether the table's are as fast as they should be."""
    torch.set_num_threads(1)
    vocab_size = Manifest.load(options.data_dir).tokenizer.vocab_size
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=options.width, intermediate_size=3 * options.width, num_hidden_layers=4,
        num_attention_heads=options.width // 64, num_key_value_heads=options.width // 64, tie_word_embeddings=False,
        max_position_embeddings=max(1024, options.sequence_length), bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    module = CausalLMModule(config=config)
    module.configure_model()
    module.log = module.log_dict = lambda *values, **options: None
    runs = {
        "one-hot": Run(copy.deepcopy(module), batches(options, None)),
        "table": Run(module, batches(options, table)),
    }
    for number in range(options.steps + 5):
        for name in sorted(runs, reverse=bool(number % 2)):
            runs[name].step()
    print(
        f"{options.steps} steps of {options.batch_size} x {options.sequence_length} positions, vocabulary {vocab_size}"
    )
    for name, run in runs.items():
        cpu, wall = (1e3 * f(seconds[5:]) for f, seconds in zip(
            (statistics.fmean, statistics.median), (run.cpu_seconds, run.wall_seconds), strict=True
        ))  # fmt: skip
        print(f"  {name:8} {cpu:8.2f} ms of processor, {wall:8.2f} ms of wall time")
    ratio = sum(runs["table"].cpu_seconds[5:]) / sum(runs["one-hot"].cpu_seconds[5:])
    print(f"  with the table a step takes {ratio:.3f} times as long (at most {MOST_RATIO})")
    return ratio <= MOST_RATIO


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if both are as fast as they should be, else 1."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(dir=Path(options.data_dir).parent) as scratch:
        folder, is_fast = options.table, True
        if folder is None:
            folder = Path(scratch, "table")
            is_fast = build(options, folder)
        table = NgramTable(str(folder))
        started = time.perf_counter()
        table.verify()
        print(f"checked its checksums in {time.perf_counter() - started:.1f} s")
        return 0 if compare_steps(options, table) and is_fast else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data/books")
    parser.add_argument("--table", help="one that is built already; default: build one in a temporary folder")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sequence_length", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--width", type=int, default=128, help="of the model, a Llama of 4 layers")
    parser.add_argument("--steps", type=int, default=100, help="of each kind")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
