"""The most memory that a worker of `tst-lightning prepare` takes, on a corpus with documents of all sizes.

    python benchmarks/prepare_memory.py                     # 1 GB of JSON lines
    python benchmarks/prepare_memory.py --gigabytes 0.3

Makes a corpus of documents between 10 bytes and 60 MB, runs the command with a trained byte-level BPE, and samples
the resident memory (VmHWM, the highest so far) of its worker processes. Exits with 1 above 500 MB.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LIMIT_BYTES = 500_000_000
LARGEST_BYTES = 60_000_000
LARGEST_EVERY_BYTES = 70_000_000
SAMPLE_SECONDS = 0.02


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns 0 if every worker stayed within the limit, else 1."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus.jsonl")
        with corpus.open("w") as file:
            for text in documents(int(options.gigabytes * 1e9)):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        print(f"{corpus.stat().st_size / 1e6:,.0f} MB of JSON lines, {options.workers} workers")
        peaks = run_and_watch(corpus, Path(scratch, "out"), options)
    parent = peaks.pop("parent")
    for pid, peak_bytes in sorted(peaks.items()):
        print(f"worker {pid:>8} {peak_bytes / 1e6:>8.0f} MB")
    print(f"parent {'':>8} {parent / 1e6:>8.0f} MB")
    highest = max(peaks.values())
    print(f"highest of a worker: {highest / 1e6:.0f} MB, {'within' if highest <= LIMIT_BYTES else 'above'} 500 MB")
    return 0 if highest <= LIMIT_BYTES else 1


def documents(total_bytes: int) -> Iterator[str]:
    """Random words in lines, with letters that take Python two bytes each; lengths
    are log-uniform up to 2 MB, with one of 60 MB now and then, some without lines.
    """
    choose = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzäöüœ\u2014"
    words = ["".join(choose.choices(letters, k=choose.randint(1, 12))) for _ in range(20_000)]
    paragraph = " ".join(choose.choices(words, k=200_000))
    lines = [choose.choices(words, k=12) for _ in range(100_000)]
    text = "\n".join(" ".join(line) for line in lines)
    written = since_largest_bytes = 0
    while written < total_bytes:
        if since_largest_bytes >= LARGEST_EVERY_BYTES:
            since_largest_bytes = 0
            size, material = LARGEST_BYTES, choose.choice([text, paragraph])
        else:
            size, material = int(10 ** choose.uniform(1, 6.3)), text
        first = choose.randrange(len(material) // 2)
        repeated = material[first:] * (1 + size // (len(material) - first))
        written += size
        since_largest_bytes += size
        yield repeated.encode()[:size].decode(errors="ignore")


def run_and_watch(corpus: Path, out: Path, options: argparse.Namespace) -> dict[int | str, int]:
    """Highest resident memory in bytes of every worker by its process id, and of the ``parent``."""
    command = [
        sys.executable, "-m", "tst_lightning.cli", "prepare", "--source", "JsonLines", "--source.paths", str(corpus),
        "--tokenizer", "TrainedBPE", "--tokenizer.vocab_size", "8192", "--tokenizer.sample_bytes", "5000000",
        "--output_dir", str(out), "--validation_fraction", "0.05", "--workers", str(options.workers),
    ]  # fmt: skip
    process = subprocess.Popen(command)
    peaks: dict[int | str, int] = {"parent": 0}
    while process.poll() is None:
        peaks["parent"] = max(peaks["parent"], peak_bytes(process.pid))
        for pid in child_processes(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        sys.exit(f"prepare ended with status {process.returncode}")
    return peaks


def child_processes(pid: int) -> list[int]:
    """Children of a process and theirs."""
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(grandchild for child in direct for grandchild in child_processes(child))]


def peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1, help="text in the corpus (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
