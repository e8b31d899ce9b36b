"""``tst-lightning export``: a training checkpoint as an ordinary Hugging Face model folder."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from tst_lightning.errors import UserError
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint

Dtype = Literal["auto", "float32", "bfloat16"]


def export(
    ckpt_path: str,
    output_dir: str,
    tokenizer: str | None = None,
    dtype: Dtype = "auto",
) -> None:
    """Write a checkpoint's model as a Hugging Face folder: configuration, safetensors weights and tokenizer.

    transformers' AutoModelForCausalLM.from_pretrained(output_dir) and AutoTokenizer.from_pretrained(output_dir) read
    it, and so does everything built on them. What served only the training (optimizer, heads of multi-token
    prediction) is left out.

    Args:
        ckpt_path: A .ckpt of a fit run, such as runs/default/checkpoints/last.ckpt: a file, or the folder of a sharded
            run, whose shards are put together.
        output_dir: Where to write; a folder that does not exist yet or is empty.
        tokenizer: Folder of the tokenizer, or of the prepared corpus that holds it. Default: that of the corpus the
            checkpoint was trained on; if it is gone, the folder has no tokenizer.
        dtype: Precision of the weights: float32, bfloat16, or auto, that of the checkpoint.
    """
    if dtype not in get_args(Dtype):
        raise UserError(f"dtype is '{dtype}': choose {', '.join(get_args(Dtype))}")
    _require_free(Path(output_dir))
    _require_checkpoint(Path(ckpt_path))
    import torch

    from tst_lightning.modeling.checkpoint import build_model, read_checkpoint

    checkpoint = read_checkpoint(ckpt_path)
    found, origin = _given_tokenizer(tokenizer) if tokenizer is not None else _tokenizer_of_run(checkpoint)
    model = build_model(checkpoint, ckpt_path).eval()
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))
    if found is not None:
        _require_fits(found, model.config, origin)
    _set_special_tokens(model, found)
    _write(Path(output_dir), model, found)
    print(_summary(checkpoint, ckpt_path, output_dir, model))
    print(_about_tokenizer(found, origin))


# Before work ------------------------------------------------------------------------------------------------


def _require_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir '{folder}' is a file: give a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"output_dir '{folder}' is not empty: give a new folder, or empty it first")


def _require_checkpoint(path: Path) -> None:
    if path.is_dir() and not is_sharded_checkpoint(path):
        raise UserError(
            f"'{path}' is a folder, and not a sharded checkpoint: give the .ckpt of a run; a Hugging Face folder needs "
            "no export"
        )


# Tokenizer --------------------------------------------------------------------------------------------------


def _given_tokenizer(folder: str) -> tuple[Any, str]:
    """The tokenizer that the user names, and its place."""
    from tst_lightning.data.storage import is_remote
    from tst_lightning.data.tokenizer import load_tokenizer

    if is_remote(folder) or Path(folder, "tokenizer").is_dir():
        return load_tokenizer(folder), f"{folder.rstrip('/')}/tokenizer"
    if not Path(folder, "tokenizer_config.json").is_file():
        raise UserError(
            f"no tokenizer at '{folder}': give a Hugging Face tokenizer folder (it has a tokenizer_config.json), or a "
            "folder that `tst-lightning prepare` wrote"
        )
    return load_tokenizer(None, fallback=folder), folder


def _tokenizer_of_run(checkpoint: dict[str, Any]) -> tuple[Any, str]:
    """The tokenizer that the checkpoint was trained with, and its place; or None, and why it cannot be had."""
    from tst_lightning.data.manifest import Manifest
    from tst_lightning.data.storage import local_folder
    from tst_lightning.data.tokenizer import load_tokenizer

    data_dir = checkpoint.get("data_dir")
    if not data_dir:
        return None, "the checkpoint does not name the data it was trained on"
    try:
        tokenizer = load_tokenizer(data_dir)
        # The state of a LightningDataModule lies under the name of its class.
        trained_with = checkpoint.get("TokenDataModule", {}).get("tokenizer")
        if trained_with is not None and Manifest.load(local_folder(data_dir)).tokenizer.hash != trained_with:
            return None, f"'{data_dir}' has been prepared anew since the training run, with another tokenizer"
    except UserError as error:
        return None, str(error).split(": ")[0]
    return tokenizer, f"{str(data_dir).rstrip('/')}/tokenizer"


def _require_fits(tokenizer: Any, config: Any, origin: str) -> None:
    vocab_size = config.get_text_config().vocab_size
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"the tokenizer at '{origin}' has {len(tokenizer)} ids, the model {vocab_size}: give with --tokenizer the "
            "one that the model was trained with"
        )


def _set_special_tokens(model: Any, tokenizer: Any | None) -> None:
    """Let the folder's configurations name the ids that training used, and none that the vocabulary lacks.

    Prepared documents have no special tokens and end with end-of-text, so that is also what a text begins after.
    Configuration classes come with the ids of their first model (GPT-2: 50256), whatever the vocabulary.
    """
    config = model.config.get_text_config()
    for target in (config, model.generation_config):
        if target is None:
            continue
        if tokenizer is not None and tokenizer.eos_token_id is not None:
            target.bos_token_id = target.eos_token_id = tokenizer.eos_token_id
            target.pad_token_id = tokenizer.pad_token_id
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = getattr(target, name, None)
            known = [i for i in (ids if isinstance(ids, list) else [ids]) if i is not None and i < config.vocab_size]
            setattr(target, name, (known if isinstance(ids, list) else known[0]) if known else None)
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        # `generate` pads rows that have ended; it warns at each call if it has to choose the same id itself.
        ended = model.generation_config.eos_token_id
        model.generation_config.pad_token_id = ended[0] if isinstance(ended, list) else ended


# Writing ----------------------------------------------------------------------------------------------------


def _write(folder: Path, model: Any, tokenizer: Any | None) -> None:
    """Write everything aside and rename it, so that a folder of that name is always a whole model."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        model.save_pretrained(aside)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)  # a temporary folder is its owner's alone
        os.replace(aside, folder)
    except Exception as error:
        # safetensors reports a full disk with a class of its own.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise _cannot_write(folder, error) from error
        raise
    finally:
        with suppress(OSError):
            shutil.rmtree(aside)


def _cannot_write(folder: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"output_dir '{folder}' cannot be written ({reason}): make room, make it writable, or choose another"
    )


# Messages ---------------------------------------------------------------------------------------------------


def _summary(checkpoint: dict[str, Any], ckpt_path: str, output_dir: str, model: Any) -> str:
    step = checkpoint.get("global_step")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{output_dir}: {type(model).__name__} of {parameters:,} parameters in "
        f"{str(model.dtype).removeprefix('torch.')}, from '{ckpt_path}'{'' if step is None else f' (step {step})'}"
    )


def _about_tokenizer(tokenizer: Any | None, origin: str) -> str:
    if tokenizer is None:
        return f"without a tokenizer, because {origin}: to have it in the folder, export again with --tokenizer DIR"
    text = f"with the tokenizer of '{origin}'"
    if tokenizer("")["input_ids"]:
        text += "; it adds special tokens, which training did not: encode prompts with add_special_tokens=False"
    return text
