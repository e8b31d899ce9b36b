"""Read the model back out of a training checkpoint, or out of a Hugging Face folder."""

from pathlib import Path
from typing import Any

from tst_lightning.errors import UserError
from tst_lightning.modeling.checksums import require_intact_file
from tst_lightning.modeling.publishing import recover
from tst_lightning.modeling.sharded_checkpoint import is_sharded_checkpoint, read_run, read_weights, require_whole

CONFIG_KEY = "hugging_face_config"
"""Where a checkpoint keeps the model's Hugging Face configuration, as a dict with ``model_type``."""
_PARAMETER_PREFIX = "model."
"""The module's attribute that holds the Hugging Face model."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint's content; tensors stay on disk until they are used, those of a sharded one are left out.

    Whether the tensors are what was written is left to who uses them, see ``checksums``.

    Raises:
        UserError: there is no such file or sharded folder, it is not a checkpoint, or not one of a causal language
            model.
    """
    import torch

    path = Path(path)
    recover(path)
    if is_sharded_checkpoint(path):
        require_whole(path)
        return _of_a_model(read_run(path), {CONFIG_KEY}, path)
    if not path.is_file():
        raise UserError(f"no checkpoint at '{path}': give the .ckpt of a run, from its checkpoints/")
    try:
        # Tensors and plain values only: a checkpoint from elsewhere must not run code.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error) or type(error).__name__).strip().split("\n")[0]
        raise UserError(
            f"'{path}' is not a readable checkpoint ({reason}): give a .ckpt file that `tst-lightning fit` wrote"
        ) from error
    return _of_a_model(checkpoint, {CONFIG_KEY, "state_dict"}, path)


def _of_a_model(checkpoint: Any, keys: set[str], path: Path) -> dict[str, Any]:
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(key), dict) for key in keys):
        raise UserError(
            f"'{path}' has no '{CONFIG_KEY}', so it is not a checkpoint of `tst-lightning fit`: give a .ckpt "
            "that it wrote"
        )
    return checkpoint


def load_model(path: str | Path) -> tuple[Any, int | None]:
    """The causal language model at ``path``, in the precision it was saved in, in evaluation mode.

    Args:
        path: a ``.ckpt`` of a fit run, a file or a sharded folder, or a Hugging Face model folder.

    Returns:
        The model, and the optimizer step of the checkpoint (None for a folder).

    Raises:
        UserError: neither is there, or it cannot be loaded.
    """
    if Path(path).is_dir() and not is_sharded_checkpoint(path):
        return _load_folder(Path(path)), None
    checkpoint = read_checkpoint(path)
    return build_model(checkpoint, path).eval(), checkpoint.get("global_step")


def build_model(checkpoint: dict[str, Any], path: str | Path) -> Any:
    """The model of a checkpoint that ``read_checkpoint`` returned; its weights are held once.

    Args:
        checkpoint: without the weights, if it is sharded.
        path: where it lies.

    Raises:
        UserError: the weights are not those that were written, or do not fit the configuration.
    """
    from transformers import AutoConfig

    from tst_lightning.modeling.initial_weights import outline

    sharded = "state_dict" not in checkpoint
    if not sharded:
        require_intact_file(path)
    parameters = {
        # torch.compile puts a level of its own into the names.
        name.removeprefix(_PARAMETER_PREFIX).replace("_orig_mod.", ""): tensor
        for name, tensor in (read_weights(path, _PARAMETER_PREFIX) if sharded else checkpoint["state_dict"]).items()
        if name.startswith(_PARAMETER_PREFIX)
    }
    try:
        config = AutoConfig.for_model(**checkpoint[CONFIG_KEY])
        dtype = next((tensor.dtype for tensor in parameters.values()), None)
        model = outline(config, dtype)
        model.load_state_dict(parameters, strict=True, assign=True)
        model.tie_weights()
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the parameters in '{path}' do not fit its model configuration ({reason}): was it written by "
            "another release?"
        ) from error
    return model


def _load_folder(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    if not (path / "config.json").is_file():
        raise UserError(
            f"'{path}' is not a Hugging Face model folder (it has no config.json): give one, or a .ckpt file"
        )
    try:
        return AutoModelForCausalLM.from_pretrained(path, local_files_only=True, trust_remote_code=False).eval()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"'{path}' does not load as a causal language model ({reason})") from error
