"""Time and peak memory of the output loss, forward and backward, head product included; side by side in one run.

    python benchmarks/losses.py                                   # CPU: about 10 minutes
    python benchmarks/losses.py --device cuda --rows 8192 --width 1024
    python benchmarks/losses.py --vocabularies 8192 --dtypes bf16 --repeats 9

Compared for every vocabulary, dtype and bag size:

- ``one_hot``: torch's cross-entropy on one target, whatever the bag size (what the baseline pays);
- ``loop``: the mean of ``s`` torch cross-entropies over shared logits, the obvious way to train on bags;
- ``eager``: ours, over all logits; and ``chunked``: ours, without ever holding them.

Times are medians of interleaved repetitions, so other load on the machine meets all alike. Memory is the peak
above what was there before the call: of the process on the CPU (each variant in a process of its own), of the
allocator on a GPU. bf16 means autocast, as in training.
"""

import argparse
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tst_lightning.bags import bag_weights
from tst_lightning.losses import linear_multi_hot_cross_entropy, multi_hot_cross_entropy

BAG_SIZES = (1, 6, 16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def one_hot(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ head.T, targets[:, 0])


def loop(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    logits = hidden @ head.T
    return torch.stack([F.cross_entropy(logits, column) for column in targets.unbind(1)]).mean()


def eager(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return multi_hot_cross_entropy(hidden @ head.T, targets, bag_weights("uniform", targets.shape[1]))


def chunked(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return linear_multi_hot_cross_entropy(hidden, head, targets, bag_weights("uniform", targets.shape[1]))


VARIANTS = {function.__name__: function for function in (one_hot, loop, eager, chunked)}
Case = tuple[str, int]
"""Variant and bag size."""


def step(variant: str, bag_size: int, dtype: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """One forward and backward; gradients are dropped."""
    hidden, head, targets = inputs
    with torch.autocast(hidden.device.type, DTYPES["bf16"], enabled=dtype == "bf16"):
        loss = VARIANTS[variant](hidden, head, targets[:, :bag_size])
    torch.autograd.grad(loss, (hidden, head))
    if hidden.is_cuda:
        torch.cuda.synchronize()


def make_inputs(options: argparse.Namespace, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(options.rows, options.width, generator=generator)
    head = torch.randn(vocabulary, options.width, generator=generator) / options.width**0.5
    targets = torch.randint(vocabulary, (options.rows, max(BAG_SIZES)), generator=generator)
    device = torch.device(options.device)
    return hidden.to(device).requires_grad_(), head.to(device).requires_grad_(), targets.to(device)


def time_all(options: argparse.Namespace, vocabulary: int, dtype: str, cases: list[Case]) -> dict[Case, float]:
    """Median seconds of each case, all cases taking turns."""
    inputs = make_inputs(options, vocabulary)
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    for repeat in range(options.repeats + 1):
        for case in cases:
            started = time.perf_counter()
            step(*case, dtype, inputs)
            if repeat > 0:  # the first round warms up
                seconds[case].append(time.perf_counter() - started)
    return {case: statistics.median(values) for case, values in seconds.items()}


def peak_bytes(options: argparse.Namespace, vocabulary: int, dtype: str, case: Case) -> int:
    """Most memory that one step holds beyond its inputs."""
    inputs = make_inputs(options, vocabulary)
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(*case, dtype, inputs)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = _resident("VmRSS")
    step(*case, dtype, inputs)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def in_own_process(function: Callable, *arguments):
    """Run in a fork of this process, which itself never computes: memory of one case is not that of another."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and the three ratios to reach; returns 0 if all are reached, else 1."""
    options = _parse(arguments)
    run = in_own_process if options.device == "cpu" else lambda function, *args: function(*args)
    cases = [(variant, s) for s in BAG_SIZES for variant in VARIANTS if s > 1 or variant != "loop"]
    settings = [(v, dtype) for v in options.vocabularies for dtype in options.dtypes]
    results: dict[tuple[int, str], dict[Case, tuple[float, int]]] = {}
    print(f"{options.rows:,} positions, width {options.width}, {options.device}, {torch.get_num_threads()} threads")
    with tqdm(total=len(settings) * (len(cases) + 1), unit="case", disable=None) as progress:
        for setting in settings:
            seconds = run(time_all, options, *setting, cases)
            progress.update()
            results[setting] = {}
            for case in cases:
                results[setting][case] = (seconds[case], run(peak_bytes, options, *setting, case))
                progress.update()
            print_setting(*setting, results[setting])
    return print_targets(results)


def print_setting(vocabulary: int, dtype: str, measured: dict[Case, tuple[float, int]]) -> None:
    print(f"\nvocabulary {vocabulary:,}, {dtype}\n{'':10}" + "".join(f"{f's = {s}':>24}" for s in BAG_SIZES))
    for variant in VARIANTS:
        cells = [measured.get((variant, s)) for s in BAG_SIZES]
        texts = [f"{c[0] * 1e3:9,.1f} ms {c[1] / 2**20:8,.0f} MiB" if c else "" for c in cells]
        print(f"{variant:10}" + "".join(f"{text:>24}" for text in texts), flush=True)


def print_targets(results: dict[tuple[int, str], dict[Case, tuple[float, int]]]) -> int:
    print("\nratios (to reach)            time s=16/s=1   memory chunked/eager   time chunked/loop")
    print("                                (<= 1.10)         (< 0.25 at 128k)   (< 1 from s=6 on)")
    reached = True
    for (vocabulary, dtype), measured in results.items():
        flat = measured["chunked", 16][0] / measured["chunked", 1][0]
        memory = measured["chunked", 16][1] / max(1, measured["eager", 16][1])
        loops = [measured["chunked", s][0] / measured["loop", s][0] for s in BAG_SIZES[1:]]
        reached &= flat <= 1.1 and max(loops) < 1 and (vocabulary < 128_000 or memory < 0.25)
        print(f"{vocabulary:>9,} {dtype:<19}{flat:13.2f}{memory:23.2f}{loops[0]:15.2f} /{loops[1]:5.2f}")
    print("all reached" if reached else "NOT all reached")
    return 0 if reached else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=1024, help="positions of a batch")
    parser.add_argument("--width", type=int, default=256, help="width of the hidden state")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[8_192, 32_768, 131_072])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
