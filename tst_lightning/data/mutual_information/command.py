"""``tst-lightning mutual-information``: what tokens tell about later ones, and a fit for weights."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_lightning.data.mutual_information.weights import FILE_NAME, FORMAT_VERSION
from tst_lightning.data.storage import is_remote
from tst_lightning.errors import UserError

if TYPE_CHECKING:
    from tst_lightning.data.mutual_information.estimate import Information
    from tst_lightning.data.mutual_information.fit import Fit
    from tst_lightning.data.mutual_information.sample import Sample
    from tst_lightning.data.reading.prepared import PreparedCorpus

FOLDER = "mutual_information"
PICTURE = "mutual_information.png"
MIN_PAIRS = 10_000
"""At every distance; fewer say little about any vocabulary."""
LONGEST_DISTANCE = 4096
INDEPENDENT_REPEATS = 16
"""Random pairings of the tokens, whose estimates show bias and noise."""
_CACHE_BYTES = 20_000_000_000  # the datamodule's


def mutual_information(
    data_dir: str,
    output_dir: str | None = None,
    max_distance: int = 256,
    max_tokens: int = 10_000_000,
    seed: int = 0,
) -> None:
    """Measure the mutual information between tokens by their distance, and fit C0 + a*d^k for the weights of bags.

    Pairs of tokens are counted in stretches that lie evenly over the training text, never across the end of a
    document. Entropies are estimated by Grassberger's estimator, which takes away most of the bias of plain
    frequencies; what it finds between tokens that are paired at random is reported as the bias that may remain, and
    with large vocabularies (from some ten thousand tokens on) it is most of C0 unless max_tokens is very large.

    Writes `mutual_information.json`, which the callback's `weights_file` takes, and `mutual_information.png`.

    Args:
        data_dir: Folder or URL with a prepared corpus; its own files stay as they are. Of a remote one, the shards
            that hold the sample are fetched.
        output_dir: Default: mutual_information/ in the corpus' folder, or for a remote corpus
            mutual_information/NAME/ in the current one.
        max_distance: In tokens; measured are all from 1 on.
        max_tokens: Tokens to read, of all if there are more. The default takes some ten seconds of computing with a
            vocabulary of bytes, minutes with 128,000 tokens. Memory grows with it: for ten million, about
            0.3 GB with bytes and 1 GB with large vocabularies.
        seed: Of where the stretches lie, and of the random pairs.

    Raises:
        UserError: there is no prepared corpus, its documents are too short for max_distance, or there is no
            information to fit. Nothing is written then.
    """
    _check(max_distance, max_tokens, seed)
    from tst_lightning.data.mutual_information.estimate import independent_information, information_curve
    from tst_lightning.data.mutual_information.figure import information_figure
    from tst_lightning.data.mutual_information.fit import fit_power_law
    from tst_lightning.data.mutual_information.summary import print_summary
    from tst_lightning.data.reading.prepared import open_corpora
    from tst_lightning.files import require_writable, write_atomically

    (corpus,) = open_corpora(data_dir, None)
    corpus.require_shards("train")
    folder = Path(output_dir) if output_dir else _default_folder(data_dir)
    require_writable(folder, "output_dir")
    sample = _sample(corpus, max_tokens, seed)
    _require_pairs(sample, corpus, max_distance)
    vocab_size = corpus.manifest.tokenizer.vocab_size
    with _progress(max_distance + INDEPENDENT_REPEATS) as bar:
        curve = information_curve(sample, vocab_size, max_distance, bar.update)
        # As many pairs as the farthest distance has, so that neither bias nor noise is understated.
        independent = independent_information(
            sample, vocab_size, curve[-1].pairs, INDEPENDENT_REPEATS, seed, bar.update
        )
    values, nothing = [each.value for each in curve], [each.value for each in independent]
    fit = fit_power_law(values, nothing)
    record = _record(corpus, sample, curve, independent, fit)
    record |= {"max_tokens": max_tokens, "seed": seed, "command": shlex.join(["tst-lightning", *sys.argv[1:]])}
    picture = information_figure(f"Tokens of {data_dir}", values, fit, record["independent"]["mean"])
    write_atomically(folder / PICTURE, picture)
    write_atomically(folder / FILE_NAME, json.dumps(record, indent=1, allow_nan=False) + "\n")
    print_summary(record, folder / FILE_NAME)


def _check(max_distance: int, max_tokens: int, seed: int) -> None:
    from tst_lightning.data.mutual_information.fit import MIN_DISTANCES

    if not MIN_DISTANCES <= max_distance <= LONGEST_DISTANCE:
        raise UserError(f"max_distance is {max_distance}, and must be from {MIN_DISTANCES} to {LONGEST_DISTANCE}")
    if max_tokens < MIN_PAIRS:
        raise UserError(f"max_tokens is {max_tokens}, and must be at least {MIN_PAIRS}: fewer pairs say little")
    if seed < 0:
        raise UserError(f"seed is {seed}, and must be at least 0")


def _default_folder(data_dir: str) -> Path:
    # `verify` looks at listed files only, and a corpus that is prepared again takes its measurements along.
    return Path(FOLDER, data_dir.rstrip("/").rsplit("/", 1)[-1]) if is_remote(data_dir) else Path(data_dir, FOLDER)


def _sample(corpus: "PreparedCorpus", max_tokens: int, seed: int) -> "Sample":
    from tst_lightning.data.mutual_information.sample import draw_sample
    from tst_lightning.data.reading.cache import ShardCache
    from tst_lightning.data.reading.documents import Documents

    split = corpus.manifest.train
    documents = Documents.of_split(
        corpus.folder / "train", split, max(split.shard_tokens, default=1), corpus.document_ends_sha256
    )
    return draw_sample(corpus.shards("train", ShardCache(None, _CACHE_BYTES)), documents, max_tokens, seed)


def _require_pairs(sample: "Sample", corpus: "PreparedCorpus", max_distance: int) -> None:
    pairs = sample.pair_count(max_distance)
    if pairs >= MIN_PAIRS:
        return
    enough = [distance for distance in range(1, max_distance) if sample.pair_count(distance) >= MIN_PAIRS]
    remedy = f"lower max_distance to {enough[-1]} or less" if enough else "prepare more text"
    more = ", or raise max_tokens" if len(sample.tokens) < corpus.manifest.train.tokens else ""
    raise UserError(
        f"only {pairs:,} pairs of tokens in the {len(sample.tokens):,} that were read are {max_distance} apart in one "
        f"document, and {MIN_PAIRS:,} are needed: {remedy}{more}"
    )


def _progress(total: int) -> Any:
    from tqdm import tqdm

    from tst_lightning.data.preparing.progress import SECONDS_BETWEEN_LINES

    interval = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(desc="counting pairs", total=total, unit=" distances", mininterval=interval)


def _record(
    corpus: "PreparedCorpus",
    sample: "Sample",
    curve: Sequence["Information"],
    independent: Sequence["Information"],
    fit: "Fit",
) -> dict[str, Any]:
    import numpy as np

    distances = list(range(1, len(curve) + 1))
    nothing = np.array([each.value for each in independent])
    return {
        "format_version": FORMAT_VERSION,
        "data_dir": str(corpus.data_dir),
        "corpus_hash": corpus.hash,
        "tokenizer_hash": corpus.manifest.tokenizer.hash,
        "vocab_size": corpus.manifest.tokenizer.vocab_size,
        "tokens": len(sample.tokens),
        "unit": "nats",
        "estimator": "Grassberger 2003",
        "fit": asdict(fit),
        "independent": {
            "pairs": independent[0].pairs,
            "plugin_mean": float(np.mean([each.plugin for each in independent])),
            "mean": float(nothing.mean()),
            "standard_deviation": float(nothing.std(ddof=1)),
        },
        "distances": distances,
        "pairs": [each.pairs for each in curve],
        "plugin": [each.plugin for each in curve],
        "correction": [each.correction for each in curve],
        "value": [each.value for each in curve],
        "fitted": fit.value(np.array(distances)).tolist(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": sys.version.split()[0]} | {name: version(name) for name in ("tst-lightning", "numpy", "scipy")}
