"""How fast training batches are read from a prepared corpus, what memory that takes, and how soon it begins.

    python benchmarks/loader.py                       # a synthetic corpus of 64 million tokens, some minutes
    python benchmarks/loader.py --megatokens 8 --repeats 1

Compared over one pass of the same shards, for rows of sequence length + 1 positions and bags of 1 and 8 tokens:

- ``data module``: the loader that `fit` trains on, with its plan, shuffling and folding into bags;
- ``litdata``: its own shuffled StreamingDataLoader, with blocks of as many tokens as a row has;
- ``memmap loop``: numpy alone, rows of the memory-mapped shards in a random order, copied into a batch.

The ways take turns, so that other load on the machine meets all alike; medians count, from the first batch on.
With one worker most of the time goes into handing batches over from its process, as PyTorch does it.
"""

import argparse
import logging
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.manifest import Manifest, Split, TokenizerInfo
from tst_lightning.data.preparing.sharding import ShardWriter, finish_split
from tst_lightning.data.shard_format import map_shard
from tst_lightning.data.tokenizer import Bytes
from tst_lightning.schedule import Schedule

TARGET_RATE = 5.0
"""Million tokens a second that the data module is to read with one worker."""
SEQUENCE_LENGTH = 1024
BATCH_SIZE = 8
BAG_SIZES = (1, 8)
WORKERS = (0, 1)
SHARD_TOKENS = 1 << 20
DOCUMENT_TOKENS = 1000
MEMORY_AT = (0.1, 0.5, 1.0)
"""Shares of a pass at which memory is looked at."""
START_STEPS = (10, 100_000)

Case = tuple[str, int, int]
"""Way, bag size, workers."""


def write_corpus(folder: Path, tokens: int) -> None:
    """A prepared corpus of random bytes; its validation split is one shard."""
    encoder = Bytes().build(lambda: [])
    encoder.save(folder / "tokenizer")
    Manifest(
        options={"source": "random bytes"},
        tokenizer=TokenizerInfo(encoder.vocab_size, encoder.end_of_text_id, encoder.hash()),
        token_dtype=encoder.dtype.name,
        train=write_split(folder / "train", tokens, encoder.end_of_text_id, encoder.dtype),
        validation=write_split(folder / "validation", SHARD_TOKENS, encoder.end_of_text_id, encoder.dtype),
    ).save(folder)


def write_split(folder: Path, tokens: int, end_of_text_id: int, dtype: np.dtype) -> Split:
    generator = np.random.default_rng(0)
    writer = ShardWriter(folder, SHARD_TOKENS, dtype, "0")
    documents = tokens // DOCUMENT_TOKENS
    for _ in range(documents):
        ids = generator.integers(0, 256, DOCUMENT_TOKENS).astype(dtype)
        ids[-1] = end_of_text_id
        writer.append(ids, [DOCUMENT_TOKENS])
    return finish_split(folder, *writer.close(), dtype, documents, documents * (DOCUMENT_TOKENS - 1))


def data_module(folder: Path, bag_size: int, workers: int, max_steps: int, epochs: int = 1) -> TokenDataModule:
    """The data module as it is in a fit that has come to building the loaders."""
    data = TokenDataModule(str(folder), SEQUENCE_LENGTH, BATCH_SIZE, epochs=epochs, num_workers=workers)
    trainer = lightning.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.strategy.connect(lightning.LightningModule())
    trainer.state.fn = "fit"
    trainer.datamodule, data.trainer = data, trainer
    data.setup("fit")
    data.set_schedule(Schedule() if bag_size == 1 else Schedule.superposition(bag_size, max_steps))
    return data


def module_batches(folder: Path, bag_size: int, workers: int, batches: int) -> Iterable[Any]:
    return data_module(folder, bag_size, workers, batches).train_dataloader()


def litdata_batches(folder: Path, bag_size: int, workers: int, batches: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    blocks = TokensLoader(block_size=row_tokens(bag_size))
    dataset = StreamingDataset(str(folder / "train"), item_loader=blocks, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=BATCH_SIZE, num_workers=workers)


def memmap_batches(folder: Path, bag_size: int, workers: int, batches: int) -> Iterator[torch.Tensor]:
    manifest, length = Manifest.load(folder), row_tokens(bag_size)
    maps = [map_shard(folder / "train" / shard.file, manifest.token_dtype) for shard in manifest.train.shards]
    rows = [(ids, first) for ids in maps for first in range(0, len(ids) - length + 1, length)]
    order = np.random.default_rng(0).permutation(len(rows))
    for number in range(batches):
        batch = np.empty((BATCH_SIZE, length), np.int32)
        for place, row in zip(batch, order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE], strict=True):
            ids, first = rows[row]
            place[:] = ids[first : first + length]
        yield torch.from_numpy(batch)


WAYS: dict[str, Callable[..., Iterable[Any]]] = {
    "data module": module_batches,
    "litdata": litdata_batches,
    "memmap loop": memmap_batches,
}


def row_tokens(bag_size: int) -> int:
    return (SEQUENCE_LENGTH + 1) * bag_size


def batches_of_pass(folder: Path, bag_size: int) -> int:
    """Whole batches in one pass, of rows that lie inside a shard."""
    rows = sum(tokens // row_tokens(bag_size) for tokens in Manifest.load(folder).train.shard_tokens)
    return rows // BATCH_SIZE


def rate(folder: Path, case: Case) -> float:
    """Million tokens a second from the first batch of a pass to its last."""
    way, bag_size, workers = case
    batches = batches_of_pass(folder, bag_size)
    iterator = iter(WAYS[way](folder, bag_size, workers, batches))
    next(iterator)
    started = time.perf_counter()
    for _ in range(batches - 1):
        next(iterator)
    return (batches - 1) * BATCH_SIZE * row_tokens(bag_size) / 1e6 / (time.perf_counter() - started)


def rates(folder: Path, repeats: int) -> dict[Case, float]:
    """Median rate of each case, all taking turns, each time in a process of its own."""
    cases = [
        (way, bag_size, workers)
        for bag_size in BAG_SIZES
        for workers in WORKERS
        for way in WAYS
        if workers == 0 or way != "memmap loop"
    ]
    measured: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            measured[case].append(in_own_process(rate, folder, case))
    return {case: statistics.median(values) for case, values in measured.items()}


def memory(folder: Path, bag_size: int) -> list[float]:
    """MiB of this process' own memory (mapped files are not in it) at ``MEMORY_AT`` of a pass read without workers."""
    batches = batches_of_pass(folder, bag_size)
    looks = [round(share * batches) for share in MEMORY_AT]
    seen = []
    for number, _ in enumerate(module_batches(folder, bag_size, 0, batches), start=1):
        if number in looks:
            kilobytes = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]
            seen.append(int(kilobytes) / 1024)
    return seen


def start_seconds(folder: Path, step: int, workers: int) -> float:
    """From asking for the loader to the first batch, in a run of many passes that resumes at ``step``."""
    bag_size, max_steps = 8, 2 * max(START_STEPS)
    epochs = 2 + max_steps // batches_of_pass(folder, bag_size)
    data = data_module(folder, bag_size, workers, max_steps, epochs)
    data.set_schedule(Schedule.superposition(bag_size, max(START_STEPS) // 2))
    data.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    started = time.perf_counter()
    batch = next(iter(data.train_dataloader()))
    seconds = time.perf_counter() - started
    assert batch["micro"] == step
    return seconds


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Run in a fork of this process, so that memory and open files of one case are not those of the next."""
    # A process of a Pool is daemonic, and may not have the loader's workers as children.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        sys.exit(f"{function.__name__}{arguments} failed: see above")
    finally:
        process.join()


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its tables; returns 0 if the target was reached, else 1."""
    options = _parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="litdata|lightning")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_corpus(folder, int(options.megatokens * 1e6))
        print(f"{options.megatokens} million tokens, rows of {SEQUENCE_LENGTH} + 1, {BATCH_SIZE} in a batch")
        reached = print_rates(rates(folder, options.repeats))
        print(
            f"own memory of the reading process (MiB) at {', '.join(f'{share:.0%}' for share in MEMORY_AT)} of a pass"
        )
        for bag_size in BAG_SIZES:
            seen = in_own_process(memory, folder, bag_size)
            print(f"  bag size {bag_size:<12}" + "".join(f"{mib:>10.1f}" for mib in seen))
        print("seconds from asking for the loader to its first batch")
        for workers in WORKERS:
            for step in START_STEPS:
                times = [in_own_process(start_seconds, folder, step, workers) for _ in range(options.repeats)]
                print(f"  num_workers={workers}, step {step:<9,}{statistics.median(times):>10.3f}")
    return 0 if reached else 1


def print_rates(measured: dict[Case, float]) -> bool:
    """Print rates, and how many times the data module's they are; returns whether the target was reached."""
    print(f"{'million tokens a second':<28}" + "".join(f"{f'num_workers={workers}':>18}" for workers in WORKERS))
    for bag_size in BAG_SIZES:
        for way in WAYS:
            cells = ""
            for workers in WORKERS:
                if (value := measured.get((way, bag_size, workers))) is not None:
                    cells += f"{value:>10.1f} ({value / measured['data module', bag_size, workers]:>4.2f}x)"
            print(f"  bag size {bag_size}, {way:<15}{cells}")
    slowest = min(measured["data module", bag_size, 1] for bag_size in BAG_SIZES)
    reached = slowest >= TARGET_RATE
    print(f"target {TARGET_RATE:.0f} million with one worker: {'reached' if reached else 'missed'}")
    return reached


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megatokens", type=float, default=64, help="of the corpus (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
