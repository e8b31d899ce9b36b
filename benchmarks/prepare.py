"""How near `tst-lightning prepare` comes to the tokenizer's own encoding with as many processes; and litgpt.

    python benchmarks/prepare.py                                    # documentation of the installed packages
    python benchmarks/prepare.py --paths data/raw/books/*.jsonl.zst --megabytes 200
    python benchmarks/prepare.py --paths ... --litgpt_python /tmp/litgpt/bin/python

All start from the same text and the same saved byte-level BPE:

- raw, N processes: each holds its share of the text in memory and calls `encode_batch_fast` on about 1 MB at a
  time, on one thread. Nothing is read, converted or written. This is what `prepare` is to come near.
- raw, 1 process: the same calls on 8 MB at a time, with the tokenizer's own threads;
- prepare: the command with N workers, from JSON lines, and from text files with one document each;
- litgpt: `prepare_data()` of `litgpt.data.TextFiles` with N workers, from the same text files.

Commands are timed whole. Their rate without start-up comes from a second time of each on a little of the text.
The runs alternate, so that other load on the machine meets all of them; medians count.

litgpt needs packages of other versions than this project, so it gets an environment of its own:

    python -m venv /tmp/litgpt && /tmp/litgpt/bin/pip install 'litgpt==0.5.13' 'litdata==0.2.59'
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tst_lightning.cores import available_cores
from tst_lightning.data.sources.installed_docs import InstalledDocs
from tst_lightning.data.sources.json_lines import JsonLines
from tst_lightning.data.tokenizer import Document, TrainedBPE

TARGET = 0.9
"""Share of the raw rate with as many processes that `prepare` is to reach, start-up aside."""
PROCESS_BATCH_BYTES = 1_000_000
THREADS_BATCH_BYTES = 8_000_000
"""Text of one raw call: enough for every thread, without gigabytes of encodings at a time."""


@dataclass(frozen=True)
class Corpus:
    """One text in the forms that the ways read, and its size."""

    folder: Path
    text_bytes: int

    @property
    def json_lines(self) -> Path:
        return self.folder / "corpus.jsonl"

    @property
    def text_files(self) -> Path:
        return self.folder / "text"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print a table; returns 0 if the target was reached, else 1."""
    options = _parse(arguments)
    texts = list(read_texts(options.paths, int(options.megabytes * 1e6)))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        shortest = sorted(texts, key=len)
        # For validation, which every command wants some of.
        texts.remove(shortest[0])
        validation = write_corpus(folder / "validation", shortest[:1])
        # One for every worker, or the start-up of some would be missing.
        little = write_corpus(folder / "little", shortest[1 : 1 + options.workers])
        whole = write_corpus(folder / "whole", texts)
        save_tokenizer(folder, texts, options.vocab_size)
        print(
            f"{len(texts):,} documents, {whole.text_bytes / 1e6:.1f} MB, {options.vocab_size:,} ids, "
            f"{options.workers} processes on {available_cores()} cores, median of {options.repeats}"
        )
        raw = {
            f"raw, {options.workers} processes": RawProcesses(folder, texts, options.workers, PROCESS_BATCH_BYTES),
            "raw, 1 process": RawProcesses(folder, texts, 1, THREADS_BATCH_BYTES),
        }
        for processes in raw.values():
            stack.enter_context(processes)
        commands = make_commands(folder, validation, options)
        ways: dict[str, Callable[[], None]] = dict(raw)
        for name, command in commands.items():
            ways[name] = lambda command=command: command(whole)
            ways[f"{name}, start-up"] = lambda command=command: command(little)
        seconds = {name: statistics.median(times) for name, times in time_alternating(ways, options.repeats).items()}
    return print_table(seconds, list(raw), list(commands), whole.text_bytes, little.text_bytes)


def read_texts(paths: list[str] | None, max_bytes: int) -> Iterator[str]:
    source = JsonLines(paths) if paths else InstalledDocs(max_bytes=max_bytes)
    for text in source.documents():
        if not text.strip():
            continue
        max_bytes -= len(text.encode())
        if max_bytes < 0:
            return
        yield text


def write_corpus(folder: Path, texts: list[str]) -> Corpus:
    corpus = Corpus(folder, sum(len(text.encode()) for text in texts))
    corpus.text_files.mkdir(parents=True)
    with corpus.json_lines.open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    for number, text in enumerate(texts):
        Path(corpus.text_files, f"{number:06}.txt").write_text(text, encoding="utf-8", newline="")
    return corpus


def save_tokenizer(folder: Path, texts: list[str], vocab_size: int) -> None:
    """One for all, and a copy for litgpt, which wants a token that begins a text."""
    documents = [Document(text, text.encode()) for text in texts]
    TrainedBPE(vocab_size).build(lambda: documents).save(folder / "tokenizer")
    shutil.copytree(folder / "tokenizer", folder / "litgpt_tokenizer")
    path = folder / "litgpt_tokenizer" / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"bos_token": values["eos_token"], "add_bos_token": True}))


class RawProcesses:
    """Processes that hold their share of the text; each call has all of them encode it once."""

    def __init__(self, folder: Path, texts: list[str], processes: int, batch_bytes: int) -> None:
        shares: list[list[str]] = [[] for _ in range(processes)]
        filled = [0] * processes
        for text in sorted(texts, key=len, reverse=True):  # largest first, to the least filled: equal shares
            least = filled.index(min(filled))
            shares[least].append(text)
            filled[least] += len(text.encode())
        self._arguments = [(str(folder / "tokenizer" / "tokenizer.json"), share, batch_bytes) for share in shares]
        # Read by the tokenizer when it starts to encode.
        self._environment = {"RAYON_NUM_THREADS": "1"} if processes > 1 else {"TOKENIZERS_PARALLELISM": "true"}

    def __enter__(self) -> "RawProcesses":
        context = get_context("spawn")
        self._pipes, self._processes = [], []
        os.environ.update(self._environment)
        try:
            for arguments in self._arguments:
                ours, theirs = context.Pipe()
                process = context.Process(target=_encode_on_demand, args=(theirs, *arguments), daemon=True)
                process.start()
                self._pipes.append(ours)
                self._processes.append(process)
        finally:
            for name in self._environment:
                del os.environ[name]
        for pipe in self._pipes:
            pipe.recv()
        return self

    def __call__(self) -> None:
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.send(False)
        for process in self._processes:
            process.join()


def _encode_on_demand(pipe: Connection, tokenizer_file: str, texts: list[str], batch_bytes: int) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    batches: list[list[str]] = [[]]
    waiting_bytes = 0
    for text in texts:
        batches[-1].append(text)
        waiting_bytes += len(text.encode())
        if waiting_bytes >= batch_bytes:
            batches.append([])
            waiting_bytes = 0
    pipe.send("ready")
    while pipe.recv():
        for batch in batches:
            tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        pipe.send("done")


def make_commands(folder: Path, validation: Corpus, options: argparse.Namespace) -> dict[str, Callable[[Corpus], None]]:
    """Whole commands by name, each to be called with the corpus to prepare."""

    def prepare(source: str, corpus: Corpus) -> None:
        paths = {"JsonLines": lambda c: c.json_lines, "TextFiles": lambda c: c.text_files}[source]
        values = {
            "source": {"class_path": source, "init_args": {"paths": [str(paths(corpus))]}},
            "validation_source": {"class_path": source, "init_args": {"paths": [str(paths(validation))]}},
            "tokenizer": {"class_path": "Pretrained", "init_args": {"name_or_path": str(folder / "tokenizer")}},
            "output_dir": str(folder / "prepared"),
            "evaluation_items": 0,
            "workers": options.workers,
            "overwrite": True,
        }
        config = folder / "prepare.json"
        config.write_text(json.dumps(values))
        run([sys.executable, "-m", "tst_lightning.cli", "prepare", "--config", str(config)])

    def litgpt(corpus: Corpus) -> None:
        script = str(Path(__file__).with_name("litgpt_prepare.py"))
        folders = [str(corpus.text_files), str(validation.text_files), str(folder / "litgpt_tokenizer")]
        run([options.litgpt_python, script, *folders, str(options.workers)])

    commands = {
        "prepare, JSON lines": lambda corpus: prepare("JsonLines", corpus),
        "prepare, text files": lambda corpus: prepare("TextFiles", corpus),
    }
    if options.litgpt_python:
        commands["litgpt, text files"] = litgpt
    return commands


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def time_alternating(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, by name, after one untimed round that warms caches."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, run_once in ways.items():
            started = time.perf_counter()
            run_once()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def print_table(
    seconds: dict[str, float], raw: list[str], commands: list[str], whole_bytes: int, little_bytes: int
) -> int:
    """Print seconds, and rates in MB/s of text; returns the exit status."""
    rates = {name: whole_bytes / 1e6 / seconds[name] for name in raw + commands}
    steady = {name: _steady_rate(seconds, name, whole_bytes - little_bytes) for name in commands}
    processes = rates[raw[0]]
    print(f"{'':<24}{'seconds':>9}{'MB/s':>8}{'of raw':>8}{'without start-up: MB/s':>26}{'of raw':>8}")
    for name, rate in rates.items():
        line = f"{name:<24}{seconds[name]:>9.2f}{rate:>8.2f}{rate / processes:>8.0%}"
        if name in steady:
            line += f"{steady[name]:>26.2f}{steady[name] / processes:>8.0%}"
        print(line)
    if "litgpt, text files" in rates:
        ours, theirs = "prepare, text files", "litgpt, text files"
        print(
            f"on the same text files, prepare is {rates[ours] / rates[theirs]:.1f} times as fast as litgpt, "
            f"start-up aside {steady[ours] / steady[theirs]:.1f} times"
        )
    else:
        print("litgpt: left out, --litgpt_python was not given (see --help)")
    reached = steady[commands[0]] >= TARGET * processes
    print(f"target {TARGET:.0%} of {raw[0]}, start-up aside: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


def _steady_rate(seconds: dict[str, float], name: str, more_bytes: int) -> float:
    """MB/s of what a command does after its start; nan if that is too little to be told from the start."""
    start_up = seconds[f"{name}, start-up"]
    more_seconds = seconds[name] - start_up
    return more_bytes / 1e6 / more_seconds if more_seconds > 0.2 * start_up else math.nan


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs="+", help="JSON lines with a field 'text' (default: InstalledDocs)")
    parser.add_argument("--megabytes", type=float, default=20, help="text to use (default: %(default)s)")
    parser.add_argument("--vocab_size", type=int, default=8192, help="of the BPE (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (default: the cores)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (default: %(default)s)")
    parser.add_argument("--litgpt_python", help="a Python that has litgpt (default: leave litgpt out)")
    options = parser.parse_args(arguments)
    if options.litgpt_python and shutil.which(options.litgpt_python) is None:
        parser.error(f"--litgpt_python: no program '{options.litgpt_python}'")
    return options


if __name__ == "__main__":
    sys.exit(main())
