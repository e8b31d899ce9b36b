"""What each packing policy costs and gives: rows, padding, documents cut, time; side by side.

    python benchmarks/packing.py                              # lengths like those of web pages
    python benchmarks/packing.py --data_dir data/mine         # and those of a prepared corpus
    python benchmarks/packing.py --bag_size 6 --group_rows 256

``rows`` counts against concatenation, which wastes none. ``cut`` is the share of documents that lie in more than
one piece; in brackets that of documents that would fit into a row. Times are medians of repetitions in which the
policies take turns. With ``--group_rows``, documents are packed a group at a time as in training, whose groups
hold the text of so many rows; without it all at once.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from tst_lightning.data.inspecting.lengths import document_lengths
from tst_lightning.data.manifest import Manifest
from tst_lightning.data.reading.packing import Packing, pack

POLICIES = ("concat", "best_fit", "spfhp")
HEADER = f"{'':10}{'rows':>11}{'more rows':>11}{'filled':>9}{'cut':>8}{'(fitting)':>11}{'documents/s':>14}"


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
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="a local prepared corpus")
    parser.add_argument("--capacities", type=int, nargs="+", default=[512, 1024, 2048], help="positions of a row")
    parser.add_argument("--bag_size", type=int, default=1, help="tokens of a position")
    parser.add_argument("--group_rows", type=int, help="pack groups of the text of so many rows; default: all at once")
    parser.add_argument("--documents", type=int, default=100_000, help="how many to make up")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
