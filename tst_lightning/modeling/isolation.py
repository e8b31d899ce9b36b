"""Whether a model keeps packed documents apart when it is told so by their positions alone.

``transformers`` takes a row for packed where ``position_ids`` restart, if it is given neither a mask nor a cache,
and then masks attention between the parts. But a model has to hand its positions on to the mask, which some
do not (OPT, Falcon, gpt-oss); convolutions and recurrent states know no mask (LFM2, Qwen3-Next); and the flash
kernels look at positions only in batches of one row. All of these take ``position_ids`` and say nothing.
"""

import inspect
import warnings

import torch
from torch import Tensor, nn

from tst_lightning.errors import UserError
from tst_lightning.modeling.sharding import reshard

SAFE_ATTENTION = ("eager", "sdpa", "flex_attention")
"""Implementations that mask by position in batches of any size."""

_EDITED_TOKENS, _KEPT_TOKENS = 6, 4
_RELATIVE_TOLERANCE = 1e-5
"""What rounding may move. Of 53 architectures (of width 32) those that leak moved by 1.9e-3 or more, others by 0."""


def require_isolation(model: nn.Module, trained_on: str | None = None, module: nn.Module | None = None) -> None:
    """Try out whether a Hugging Face causal LM keeps the documents of a row apart: one small forward pass.

    Args:
        model: where it happens to be.
        trained_on: type of the device that it will be trained on, if it will.
        module: a CausalLMModule that the model is in and whose ``forward`` gathers its weights, if they are sharded.
            Every process has to take part then.

    Raises:
        UserError: it does not, or it cannot be trained so.
    """
    name, remedy = type(model).__name__, "set isolate_documents to false, or choose another model (such as Llama)"
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise UserError(f"isolate_documents=true needs a model that takes position_ids, and {name} does not: {remedy}")
    attention = model.config.get_text_config()._attn_implementation
    if attention not in SAFE_ATTENTION:
        raise UserError(
            f"isolate_documents=true with attn_implementation '{attention}' lets a document see the others of its "
            f"row: use {', '.join(SAFE_ATTENTION)}"
        )
    if attention == "flex_attention" and trained_on == "cpu":
        raise UserError(
            "attn_implementation 'flex_attention' cannot be trained on a CPU, where torch has no backward pass for it: "
            "use sdpa"
        )
    if _leaks(model, module):
        raise UserError(
            f"isolate_documents=true, but in {name} a document sees those before it in its row (what it computes "
            f"changes with them): {remedy}"
        )


@torch.no_grad()
def _leaks(model: nn.Module, module: nn.Module | None) -> bool:
    """Read two rows that differ in their first document, and compare the second."""
    documents = (torch.arange(_EDITED_TOKENS), torch.arange(_KEPT_TOKENS))
    positions = torch.cat(documents).expand(2, -1).to(model.device)
    ids = positions.clone()
    ids[1, :_EDITED_TOKENS] += _EDITED_TOKENS
    modes = [(part, part.training) for part in (module or model).modules()]
    try:
        (module or model).eval()  # dropout would tell the two rows apart by itself
        with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            # Compiling flex attention for one look takes a minute; without, it warns that it is slow.
            warnings.simplefilter("ignore")
            if module is None:
                read = model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
            else:
                read, _ = module(ids.unsqueeze(-1), ids.unsqueeze(-1), _Outputs(), positions)
                reshard(module)
    finally:
        for part, training in modes:
            part.training = training
    first, second = read[:, _EDITED_TOKENS:].float()
    return not (first - second).abs().max() <= _RELATIVE_TOLERANCE * first.abs().max()


class _Outputs:
    """In place of a loss: what it would be of."""

    def __call__(self, hidden: Tensor, *_: Tensor | None) -> Tensor:
        return hidden

    def from_logits(self, logits: Tensor, *_: Tensor | None) -> Tensor:
        return logits
