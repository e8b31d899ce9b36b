"""Whether a run can go on from a checkpoint, or begin in its folder: asked before anything of the run is built."""

from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.modeling.publishing import is_there
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint

_SHAPE_KEYS = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_experts", "num_local_experts", "moe_intermediate_size",
    "tie_word_embeddings",
)  # fmt: skip
"""Of a Hugging Face configuration: what the names and shapes of the parameters follow from."""


def require_own_folder(folder: str | Path, ckpt_path: str | None) -> None:
    """Refuse to begin a run in the folder of another one. Changes nothing on the disk.

    Args:
        folder: of the run, ``trainer.default_root_dir``.
        ckpt_path: that it goes on from, if it does.

    Raises:
        UserError: there is a ``last.ckpt``, or one that a killed run was about to replace.
    """
    if not ckpt_path and is_there(Path(folder) / "checkpoints" / "last.ckpt"):
        raise UserError(
            f"trainer.default_root_dir '{folder}' holds the checkpoints of another run, which this one would "
            "overwrite: resume it with --ckpt_path last, or choose another folder"
        )


def require_resumable(path: str, model_config: Any, max_steps: int | None) -> int | None:
    """Refuse a checkpoint that is none, or of another model, or past the end of the run.

    It is read as every checkpoint here: tensors and plain values only, so that one from elsewhere runs no code.

    Args:
        path: of the checkpoint, a file or a sharded folder. Names of Lightning's, such as ``best``, are left to it.
        model_config: Hugging Face configuration of the run's model.
        max_steps: of the run; None where no training follows.

    Returns:
        Optimizer steps that it has done; None where it was left to Lightning.

    Raises:
        UserError: what differs, and what to do.
    """
    from tst_lightning.modeling.checkpoint import CONFIG_KEY, read_checkpoint

    sharded = is_sharded_checkpoint(path)
    if not sharded and not Path(path).is_file():
        return None
    checkpoint = read_checkpoint(path)
    _require_parts(checkpoint, path, CONFIG_KEY, sharded)
    own, saved = _shape_values(model_config.to_dict()), _shape_values(checkpoint[CONFIG_KEY])
    differing = [name for name in own.keys() & saved.keys() if own[name] != saved[name]]
    if differing:
        values = ", ".join(f"{name}={saved[name]!r} (this run: {own[name]!r})" for name in sorted(differing))
        raise UserError(f"the checkpoint '{path}' is of a model with {values}: give the model.config of its run")
    step = checkpoint.get("global_step", 0)
    if max_steps is not None and max_steps < step:
        raise UserError(
            f"the checkpoint '{path}' is of step {step}, after trainer.max_steps={max_steps}: raise max_steps, or "
            "resume from an earlier checkpoint"
        )
    return step


def _require_parts(checkpoint: dict[str, Any], path: str, config_key: str, sharded: bool) -> None:
    parts = {config_key: dict, "pytorch-lightning_version": str, "global_step": int}
    if not sharded:  # whose weights lie in other files
        parts["state_dict"] = dict
    wrong = [name for name, kind in parts.items() if not isinstance(checkpoint.get(name), kind)]
    if not wrong and not sharded and not checkpoint["state_dict"]:
        wrong = ["state_dict"]
    if wrong:
        raise UserError(
            f"'{path}' is not a whole checkpoint (it lacks {', '.join(wrong)}): give a .ckpt that a `fit` has written"
        )


def _shape_values(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    return {name: text[name] for name in _SHAPE_KEYS if text.get(name) is not None}
