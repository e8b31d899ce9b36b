"""Which values the options of a preparation may have."""

from typing import Any

from tst_lightning.data.preparing.encoder import stored_dtype
from tst_lightning.data.tokenizer import TrainedBPE
from tst_lightning.errors import UserError

MAX_SHARD_TOKENS = 2**31 - 1
"""A worker holds a shard in memory."""


def require_valid_values(values: dict[str, Any]) -> None:
    """Check the arguments of ``prepare``, by name.

    Raises:
        UserError: some are out of their range; all are named.
    """
    problems = []
    if values["validation_source"] is None and not 0 < values["validation_fraction"] < 1:
        problems.append(
            f"validation_fraction is {values['validation_fraction']}: it has to lie between 0 and 1, "
            "both excluded; validation_source takes validation documents from elsewhere"
        )
    for name in ("shard_tokens", "part_bytes", "max_documents", "max_bytes", "max_tokens", "workers"):
        if values[name] is not None and values[name] < 1:
            problems.append(f"{name} is {values[name]}: it has to be at least 1")
    if values["shard_tokens"] > MAX_SHARD_TOKENS:
        problems.append(f"shard_tokens is {values['shard_tokens']}: a shard has at most {MAX_SHARD_TOKENS} tokens")
    for name in ("evaluation_items", "seed"):
        if values[name] < 0:
            problems.append(f"{name} is {values[name]}: it has to be 0 or more")
    if not values["output_dir"]:
        problems.append("output_dir is empty: name the folder to make")
    if problems:
        raise UserError("; ".join(problems))
    if isinstance(values["tokenizer"], TrainedBPE):
        stored_dtype(values["tokenizer"].vocab_size, values["token_dtype"])
