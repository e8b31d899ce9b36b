"""What ``prepare`` prints at its end."""

from tst_lightning.data.manifest import Manifest
from tst_lightning.data.preparing.heldout import TOO_LITTLE


def print_summary(output_dir: str, manifest: Manifest, seconds: float) -> None:
    """Sizes of both splits, and what was left out."""
    text_bytes = manifest.train.bytes + manifest.validation.bytes
    # No rate: parts that an earlier call had finished took no time. The bar has shown it.
    print(f"prepared '{output_dir}' in {seconds:.1f} s")
    for name, split in (("train", manifest.train), ("validation", manifest.validation)):
        print(
            f"  {name:<11}{split.documents:>10,} documents {split.bytes / 1e6:>10,.1f} MB "
            f"{split.tokens:>14,} tokens {len(split.shards):>6,} shards"
        )
    vocabulary = f"{manifest.tokenizer.vocab_size:,} ids, stored as {manifest.token_dtype}"
    print(
        f"  vocabulary {vocabulary}; {text_bytes / (manifest.train.tokens + manifest.validation.tokens):.2f}"
        " bytes a token"
    )
    for reason, count in manifest.skipped.items():
        print(f"  {reason}: {count:,}")
    for task, count in manifest.evaluation_items.items():
        none = "" if count else f" ({TOO_LITTLE}; `evaluate --tasks heldout` leaves the task out)"
        print(f"  {task}: {count:,}{none}")
