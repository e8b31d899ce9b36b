"""Scoring the choices of multiple-choice items: our adapter against lm-eval's own HFLM, side by side in one run.

    python benchmarks/evaluation.py > results/benchmarks/evaluation_cpu.txt          # CPU: about 15 minutes
    python benchmarks/evaluation.py --device cuda --items 2000 --widths 768
    python benchmarks/evaluation.py --widths 64 --vocabularies 8192 --repeats 5

Items are made up here: a context of 20 to 60 words and four choices of 1 to 12, with words drawn as in text (few
are frequent). Byte tokens for a vocabulary of 257, else a token for each of the words that the vocabulary holds.
Models are Llamas of four layers with random weights.

Measured is all of ``loglikelihood``: tokenising, batching, forward passes, and reading the scores out. Repetitions
are interleaved, so other load on the machine meets all alike, and times are medians. On a CPU they are the process's
CPU seconds with one torch thread, which other processes hardly change; wall seconds stand beside them. HFLM runs at
several batch sizes and is judged by its best. ``shared`` is our adapter, ``plain`` our adapter without sharing what
choices begin with. Needs ``accelerate``, as HFLM does.
"""

import argparse
import logging
import random
import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tst_lightning.evaluation.adapter import InMemoryLM

HFLM_BATCH_SIZES = (1, 8, 32)
BYTES = 257
CHOICES = 4
TOLERANCE = 1e-3
"""Largest difference of log-likelihoods that still counts as the same work."""


def made_up_words(count: int) -> list[str]:
    syllables = [consonant + vowel for consonant in "bdfghklmnprstvz" for vowel in "aeiou"]
    generator = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(generator.choices(syllables, k=generator.randint(1, 4)))] = None
    return list(words)


def made_up_items(words: list[str], items: int) -> list[SimpleNamespace]:
    """Requests as lm-eval makes them: four a context, the choices after a space."""
    generator = random.Random(1)
    weights = [1 / rank for rank in range(10, len(words) + 10)]

    def text(shortest: int, longest: int) -> str:
        return " ".join(generator.choices(words, weights, k=generator.randint(shortest, longest)))

    requests = []
    for _ in range(items):
        context = f"{text(20, 60)} :"
        requests += [SimpleNamespace(args=(context, f" {text(1, 12)}")) for _ in range(CHOICES)]
    return requests


def make_tokenizer(vocabulary: int, words: list[str]) -> PreTrainedTokenizerFast:
    if vocabulary == BYTES:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        known = ["<|unknown|>", ":", *words][: vocabulary - 1]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=known[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def make_model(width: int, vocabulary: int, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=max(2, width // 64),
        max_position_embeddings=1024,
        initializer_range=0.1,
    )
    return AutoModelForCausalLM.from_config(config).eval().to(device)


def contenders(model: torch.nn.Module, tokenizer: Any) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    hflm = {f"HFLM {size}": HFLM(model, tokenizer=tokenizer, batch_size=size) for size in HFLM_BATCH_SIZES}
    return {
        "shared": InMemoryLM(model, tokenizer),
        "plain": InMemoryLM(model, tokenizer, share_beginnings=False),
        **hflm,
    }


@torch.no_grad()
def measure(competing: dict[str, Any], requests: list, repeats: int, on_gpu: bool) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each, as medians of interleaved repetitions after one to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in competing}
    scores = {}
    for repeat in range(repeats + 1):
        for name, language_model in competing.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found = language_model.loglikelihood(requests, disable_tqdm=True)
            if on_gpu:
                torch.cuda.synchronize()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if repeat:
                times[name].append(spent)
            scores[name] = [log_likelihood for log_likelihood, _ in found]
    for name, values in scores.items():
        worst = max(abs(a - b) for a, b in zip(values, scores["HFLM 1"], strict=True))
        if worst > TOLERANCE:
            raise SystemExit(f"{name} and HFLM differ by {worst}: not the same work")
    return {
        name: tuple(statistics.median(column) for column in zip(*spent, strict=True)) for name, spent in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[BYTES, 8192, 50304])
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    on_gpu = arguments.device != "cpu"
    if not on_gpu:
        torch.set_num_threads(1)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    decides = 1 if on_gpu else 0
    print("$ python", " ".join(sys.argv))
    print(
        f"{arguments.items * CHOICES} requests, four choices an item, {arguments.device}, "
        f"{'wall' if on_gpu else 'CPU (wall)'} seconds, median of {arguments.repeats}; ratio: best HFLM / shared\n"
    )
    names = ["shared", "plain", *(f"HFLM {size}" for size in HFLM_BATCH_SIZES)]
    print(f"{'width':>5} {'vocabulary':>10}" + "".join(f"{name:>16}" for name in names) + f"{'ratio':>8}")
    cases = [(width, vocabulary) for vocabulary in arguments.vocabularies for width in arguments.widths]
    for width, vocabulary in tqdm(cases, disable=not sys.stderr.isatty()):
        words = made_up_words(vocabulary if vocabulary > BYTES else 5000)
        requests = made_up_items(words[: vocabulary - 3] if vocabulary > BYTES else words, arguments.items)
        competing = contenders(make_model(width, vocabulary, arguments.device), make_tokenizer(vocabulary, words))
        times = measure(competing, requests, arguments.repeats, on_gpu)
        best = min(times[name][decides] for name in names if name.startswith("HFLM"))
        cells = [
            f"{times[name][1]:16.2f}" if on_gpu else f"{times[name][0]:8.2f} ({times[name][1]:5.2f})" for name in names
        ]
        print(f"{width:5} {vocabulary:10,}" + "".join(cells) + f"{best / times['shared'][decides]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
