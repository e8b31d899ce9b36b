"""What each packing policy costs and gives: rows, padding, documents cut, time; side by side.

    python benchmarks/packing.py                              # lengths like those of web pages
    python benchmarks/packing.py --data_dir data/mine         # and those of a prepared corpus
    python benchmarks/packing.py --bag_size 6 --group_rows 256

Two tables: documents packed by each policy, and batches in training on a corpus of random bytes with such lengths.

``rows`` counts against concatenation, which wastes none. ``cut`` is the share of documents that lie in more than
one piece; in brackets that of documents that would fit into a row. Times are medians of repetitions in which the
policies take turns. With ``--group_rows``, documents are packed a group at a time as in training, whose groups
hold the text of so many rows; without it all at once.

In training, ``filled`` is the share of slots that hold text, ``targets`` that of positions that have a target,
``read`` the tokens that the loader gives in a second, without workers and from its first batch on, and ``trained``
the targets of training steps of a small Llama on the CPU (forward, backward, AdamW; where documents are isolated, a
dense mask in PyTorch's attention). In brackets, against concatenation. The ways take turns step by step, so that
other load on the machine meets all alike.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from transformers import LlamaConfig

from tst_lightning.bags import IGNORE, shift
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.data.inspecting.lengths import document_lengths
from tst_lightning.data.manifest import Manifest, Split, TokenizerInfo
from tst_lightning.data.preparing.sharding import ShardWriter, finish_split
from tst_lightning.data.reading.curriculum import length_schedule
from tst_lightning.data.reading.packing import Packing, pack
from tst_lightning.data.tokenizer import Bytes
from tst_lightning.module import CausalLMModule

POLICIES = ("concat", "best_fit", "spfhp")
HEADER = f"{'':10}{'rows':>11}{'more rows':>11}{'filled':>9}{'cut':>8}{'(fitting)':>11}{'documents/s':>14}"

SEQUENCE_LENGTH, BATCH_SIZE, MIN_LENGTH = 512, 4, 32
ISOLATED = {"isolate_documents": True}
WAYS = {
    "concat": {},
    "concat, isolated": ISOLATED,
    "best_fit, isolated": {"packing": "best_fit"} | ISOLATED,
    "spfhp, isolated": {"packing": "spfhp"} | ISOLATED,
    "decomposition": None,
}


def web_lengths(documents: int) -> np.ndarray:
    """Log-normal with a mean of 700 tokens: half of the documents have less than 425, one in a hundred 4,350."""
    return np.random.default_rng(0).lognormal(np.log(700) - 0.5, 1.0, documents).astype(np.int64) + 1


def groups_of(lengths: np.ndarray, group_positions: int | None) -> list[np.ndarray]:
    """Consecutive documents, all or those that begin in the same stretch of the text."""
    if group_positions is None:
        return [lengths]
    starts = np.cumsum(lengths) - lengths
    return np.split(lengths, np.flatnonzero(np.diff(starts // group_positions)) + 1)


def measure(groups: list[np.ndarray], capacity: int, repeats: int) -> dict[str, tuple[list[Packing], float]]:
    """Packings of the groups and the median of the seconds for all of them, by policy."""
    seconds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    packings = {}
    for _ in range(repeats):
        for policy in POLICIES:
            started = time.perf_counter()
            packings[policy] = [pack(group, capacity, policy) for group in groups]
            seconds[policy].append(time.perf_counter() - started)
    return {policy: (packings[policy], statistics.median(seconds[policy])) for policy in POLICIES}


def print_setting(name: str, lengths: np.ndarray, capacity: int, options: argparse.Namespace) -> None:
    positions = -(-lengths // options.bag_size)
    groups = groups_of(positions, options.group_rows and options.group_rows * capacity)
    print(f"\n{name}: {len(lengths):,} documents in {len(groups):,} groups, rows of {capacity} positions\n{HEADER}")
    least = -(-int(positions.sum()) // capacity)
    fitting = np.concatenate(groups) <= capacity
    for policy, (packings, seconds) in measure(groups, capacity, options.repeats).items():
        rows = sum(packing.rows for packing in packings)
        pieces = [np.bincount(p.document, minlength=len(g)) for p, g in zip(packings, groups, strict=True)]
        cut = np.concatenate(pieces) > 1
        print(
            f"{policy:10}{rows:>11,}{rows / least - 1:>11.4%}{positions.sum() / (rows * capacity):>9.3%}"
            f"{cut.mean():>8.1%}{cut[fitting].mean():>11.1%}{len(lengths) / seconds:>14,.0f}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    corpora = {"log-normal, mean 700 tokens": web_lengths(options.documents)}
    if options.data_dir:
        split = Manifest.load(options.data_dir).train
        corpora[options.data_dir] = document_lengths(Path(options.data_dir, "train"), split)
    print(f"bags of {options.bag_size}")
    for name, lengths in corpora.items():
        for capacity in options.capacities:
            print_setting(name, lengths, capacity, options)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder), web_lengths(options.trained_documents))
        print_training(folder, options.steps)
    return 0


def write_corpus(folder: Path, lengths: np.ndarray) -> None:
    """A prepared corpus of random bytes, its documents of the given lengths."""
    encoder = Bytes().build(lambda: [])
    encoder.save(folder / "tokenizer")

    def split(name: str, lengths: np.ndarray) -> Split:
        ids = np.random.default_rng(1).integers(0, 256, lengths.sum()).astype(encoder.dtype)
        ids[np.cumsum(lengths) - 1] = encoder.end_of_text_id
        writer = ShardWriter(folder / name, 1 << 20, ids.dtype, "0")
        writer.append(ids, lengths)
        return finish_split(folder / name, *writer.close(), ids.dtype, len(lengths), len(ids))

    Manifest(
        options={"source": "random bytes"},
        tokenizer=TokenizerInfo(encoder.vocab_size, encoder.end_of_text_id, encoder.hash()),
        token_dtype=encoder.dtype.name,
        train=split("train", lengths),
        validation=split("validation", lengths[:20]),
    ).save(folder)


def data_module(folder: str, way: str, steps: int) -> TokenDataModule:
    """The data module as it is in a fit that has come to building the loaders."""
    data = TokenDataModule(folder, SEQUENCE_LENGTH, BATCH_SIZE, epochs=1000, num_workers=0, **(WAYS[way] or {}))
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(lightning.LightningModule())
    trainer.state.fn = "fit"
    trainer.datamodule, data.trainer = data, trainer
    data.setup("fit")
    if WAYS[way] is None:
        tokens = data.decompose(MIN_LENGTH, "random")
        data.set_schedule(length_schedule(tokens, steps, "uniform", 1, np.random.default_rng(0)))
    return data


def small_llama() -> CausalLMModule:
    module = CausalLMModule(
        LlamaConfig(
            vocab_size=257, hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=SEQUENCE_LENGTH, bos_token_id=None, eos_token_id=256,
        )
    )  # fmt: skip
    module.configure_model()
    return module


def measure_reading(folder: str, batches: int) -> dict[str, dict[str, float]]:
    """By way, shares of the slots and positions, and seconds."""
    loaders = {way: data_module(folder, way, batches).train_dataloader() for way in WAYS}
    iterators = {way: iter(loader) for way, loader in loaders.items()}
    sums = {way: dict.fromkeys(("slots", "text", "positions", "targets", "seconds"), 0) for way in WAYS}
    for number in range(batches):
        for way, total in sums.items():
            started = time.perf_counter()
            batch = next(iterators[way])
            total["seconds"] += time.perf_counter() - started
            targets = batch.get("targets", batch["tokens"][:, 1:])
            total["slots"] += batch["tokens"].numel()
            total["text"] += sum(span.tokens for row in loaders[way].dataset.rows_of(number)[0] for span in row)
            total["positions"] += targets.numel()
            total["targets"] += int((targets != IGNORE).sum())
    return sums


def measure_training(folder: str, steps: int) -> dict[str, float]:
    """Targets a second, by way."""
    iterators = {way: iter(data_module(folder, way, steps).train_dataloader()) for way in WAYS}
    modules = {way: small_llama() for way in WAYS}
    optimizers = {way: torch.optim.AdamW(module.parameters(), 1e-3) for way, module in modules.items()}
    seconds, targets_seen = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0)
    for step in range(steps):
        for way, module in modules.items():
            batch = next(iterators[way])
            inputs, following = shift(batch["tokens"])
            targets = batch.get("targets", following)
            for timed in (False, True) if step == 0 else (True,):  # the first step of all allocates
                started = time.perf_counter()
                loss, _ = module(inputs, targets, module.loss, batch.get("position_ids"))
                loss.backward()
                optimizers[way].step()
                optimizers[way].zero_grad()
                seconds[way] += timed * (time.perf_counter() - started)
            targets_seen[way] += int((targets != IGNORE).sum())
    return {way: targets_seen[way] / seconds[way] for way in WAYS}


def print_training(folder: str, steps: int) -> None:
    reading, trained = measure_reading(folder, 50 * steps), measure_training(folder, steps)
    read = {way: sums["text"] / sums["seconds"] for way, sums in reading.items()}
    print(f"\nin training: rows of {SEQUENCE_LENGTH} positions, {BATCH_SIZE} in a step; width 64, 4 layers, CPU")
    print(f"{'':20}{'filled':>9}{'targets':>9}{'read, Mtokens/s':>22}{'trained, ktargets/s':>23}")
    for way, sums in reading.items():
        print(
            f"{way:20}{sums['text'] / sums['slots']:>9.2%}{sums['targets'] / sums['positions']:>9.2%}"
            f"{read[way] / 1e6:>13.1f} ({read[way] / read['concat']:.2f}x)"
            f"{trained[way] / 1e3:>14.2f} ({trained[way] / trained['concat']:.2f}x)",
            flush=True,
        )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="a local prepared corpus")
    parser.add_argument("--capacities", type=int, nargs="+", default=[512, 1024, 2048], help="positions of a row")
    parser.add_argument("--bag_size", type=int, default=1, help="tokens of a position")
    parser.add_argument("--group_rows", type=int, help="pack groups of the text of so many rows; default: all at once")
    parser.add_argument("--documents", type=int, default=100_000, help="how many to make up")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trained_documents", type=int, default=10_000, help="of the corpus that is trained on")
    parser.add_argument("--steps", type=int, default=16, help="training steps of each way")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
