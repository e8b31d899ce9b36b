"""How near `tst-lightning prepare` comes to the tokenizer's own batch encoding, on the same text and cores.

    python benchmarks/prepare.py                                    # documentation of the installed packages
    python benchmarks/prepare.py --paths data/raw/books/*.jsonl.zst --megabytes 50

`prepare` reads JSON lines, hashes, encodes, converts and writes shards; what it is compared with only encodes
text that is in memory. Both start from the same saved byte-level BPE. The runs alternate, so that other load
on the machine meets both; medians count.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tst_lightning.cores import available_cores
from tst_lightning.data.prepare import prepare
from tst_lightning.data.preparing.routing import usable_documents
from tst_lightning.data.sources.corpus import JsonLines
from tst_lightning.data.sources.installed_docs import InstalledDocs
from tst_lightning.data.tokenizer import Document, Encoder, Pretrained, TrainedBPE

TARGET = 0.8
"""Share of the raw rates that `prepare` is to reach."""
RAW_BATCH_BYTES = 8_000_000
"""Text of one raw call: enough for every core, without gigabytes of encodings at a time."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print a table; returns 0 if the target was reached, else 1."""
    options = _parse(arguments)
    text_bytes = int(options.megabytes * 1e6)
    source = JsonLines(options.paths) if options.paths else InstalledDocs(max_bytes=text_bytes)
    documents = list(usable_documents(source.documents(), Counter(), max_bytes=text_bytes))
    text_bytes = sum(len(document.data) for document in documents)
    print(
        f"{len(documents):,} documents, {text_bytes / 1e6:.1f} MB, {options.vocab_size:,} ids, "
        f"{available_cores()} cores, median of {options.repeats}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        encoder = TrainedBPE(options.vocab_size).build(lambda: documents)
        encoder.save(folder / "tokenizer")
        with (folder / "corpus.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": document.text}) + "\n" for document in documents)
        ways: dict[str, Callable[[], None]] = {
            "encode_batch": lambda: encode_raw(encoder, documents, fast=False),
            "encode_batch_fast": lambda: encode_raw(encoder, documents, fast=True),
            "prepare": lambda: prepare_quietly(folder),
        }
        seconds = time_alternating(ways, options.repeats)
    return print_table({name: text_bytes / 1e6 / statistics.median(times) for name, times in seconds.items()})


def encode_raw(encoder: Encoder, documents: list[Document], fast: bool) -> None:
    """Encode everything with the tokenizer's own batch call and its own parallelism; drop the result."""
    encode = encoder.backend.encode_batch_fast if fast else encoder.backend.encode_batch
    texts: list[str] = []
    waiting_bytes = 0
    for document in documents:
        texts.append(document.text)
        waiting_bytes += len(document.data)
        if waiting_bytes >= RAW_BATCH_BYTES:
            encode(texts, add_special_tokens=False)
            texts, waiting_bytes = [], 0
    encode(texts, add_special_tokens=False)


def prepare_quietly(folder: Path) -> None:
    """A whole preparation from the saved tokenizer, without items for downstream tasks."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(
            JsonLines(str(folder / "corpus.jsonl")),
            str(folder / "prepared"),
            Pretrained(str(folder / "tokenizer")),
            evaluation_items=0,
            overwrite=True,
        )


def time_alternating(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, by name, after one untimed round that imports libraries and warms caches."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def print_table(rates: dict[str, float]) -> int:
    """Print rates in MB/s; returns the exit status."""
    print(f"{'':<20}{'MB/s':>8}{'prepare reaches':>18}")
    for name, rate in rates.items():
        share = f"{rates['prepare'] / rate:>17.0%}" if name != "prepare" else ""
        print(f"{name:<20}{rate:>8.2f}{share}")
    raw = max(rate for name, rate in rates.items() if name != "prepare")
    reached = rates["prepare"] >= TARGET * raw
    print(f"target {TARGET:.0%} of the faster raw rate: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs="+", help="JSON lines with a field 'text' (default: InstalledDocs)")
    parser.add_argument("--megabytes", type=float, default=20, help="text to use (default: %(default)s)")
    parser.add_argument("--vocab_size", type=int, default=8192, help="of the BPE (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
