"""The Hugging Face model of a run: where it comes from, and what the module has to know of its kind."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tst_lightning.errors import UserError
from tst_lightning.hub import cache_only_without_hub
from tst_lightning.modeling.initial_weights import NotByLayerError, draw_weights, outline


def new_model(config: PretrainedConfig, seed: int) -> nn.Module:
    """A causal LM with random fp32 weights from ``seed``; no other random numbers are drawn."""
    with isolate_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def new_vocabulary(config: PretrainedConfig, seed: int) -> nn.Module:
    """``new_model(config, seed)`` of which only embedding and head are in memory; the rest is on the meta device."""
    model = outline(config)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())

    def take(name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        if (part := model.get_submodule(owner)) in tables and leaf in part._parameters:
            part._parameters[leaf] = nn.Parameter(value)

    try:
        draw_weights(config, seed, take)
    except NotByLayerError:
        return new_model(config, seed)
    model.tie_weights()
    return model


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
            # Else transformers asks on a terminal whether to run the code that a model brings.
            return kind.from_pretrained(name, trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            why = f"no such folder, and {no_hub}" if no_hub else str(error).strip().splitlines()[0]
            raise UserError(f"cannot start from '{name}': {why}") from error


def rescales_logits(config: PretrainedConfig) -> bool:
    """Whether the model does more to its logits than multiply by the head (Gemma 2, Cohere, Granite)."""
    config = config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in names)
