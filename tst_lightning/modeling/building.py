"""The Hugging Face model of a run: where it comes from, and what the module has to know of its kind."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tst_lightning.errors import UserError
from tst_lightning.hub import cache_only_without_hub


def new_model(config: PretrainedConfig, seed: int) -> nn.Module:
    """A causal LM with random fp32 weights from ``seed``; no other random numbers are drawn."""
    with isolate_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def pretrained_config(name: str) -> PretrainedConfig:
    """Configuration of the model in a folder or on the hub; see ``_from_hub`` for what is raised."""
    return _from_hub(AutoConfig, name)


def pretrained_model(name: str, seed: int) -> nn.Module:
    """A causal LM with the fp32 weights of a folder or hub name; ``seed`` is for those that it lacks."""
    with isolate_rng():
        torch.manual_seed(seed)
        return _from_hub(AutoModelForCausalLM, name, dtype=torch.float32)


def _from_hub(kind: type, name: str, **options: Any) -> Any:
    """``kind.from_pretrained(name)``, without the libraries' retries where the hub cannot be reached.

    Raises:
        UserError: ``name`` is neither a folder nor a model in the cache or on the hub, or it does not load.
    """
    with cache_only_without_hub() if not Path(name).is_dir() else nullcontext() as no_hub:
        try:
            return kind.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            why = f"no such folder, and {no_hub}" if no_hub else str(error).strip().splitlines()[0]
            raise UserError(f"cannot start from '{name}': {why}") from error


def rescales_logits(config: PretrainedConfig) -> bool:
    """Whether the model does more to its logits than multiply by the head (Gemma 2, Cohere, Granite)."""
    config = config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in names)
