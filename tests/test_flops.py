"""FLOPs counted structurally against torch's count of the matrix products of a real forward and backward pass.

Equal to the last one, where torch counts every product: attention and loss eager, experts one after the other or
in batches. What torch counts elsewhere, and why the tests do not use it:

- fused attention (SDPA) computes the scores a second time in the backward pass, which is no part of the model;
- the chunked loss accumulates the head's gradient by an in-place ``addmm_``, which torch's counter does not know;
- grouped products of experts (``grouped_mm``, what a GPU uses) it does not know either, so that those FLOPs are
  checked through the two other implementations of the same layer.
"""

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config, LlamaConfig, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig

from tst_lightning.accounting import flops_per_position, matrix_parameters, recomputed_flops_per_position
from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.bags import superpose_embedding
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy
from tst_lightning.modeling.outlined import Outlined
from tst_lightning.module import CausalLMModule

VOCABULARY, ROWS, LENGTH, LAYERS, WIDTH = 101, 2, 16, 3, 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 80, "num_hidden_layers": LAYERS}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None}
GROUPED = SIZES | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def counted(config, bag_size=1, attention="eager", experts=None, multi_token=None, recomputed=False):
    """FLOPs that torch counts in a training step without its optimizer; and the model."""
    config._attn_implementation = attention
    if experts:
        config._experts_implementation = experts
    options = {"multi_token": multi_token, "activation_checkpointing": recomputed}
    module = CausalLMModule(config=config, loss_impl="eager", **options)
    module.configure_model()
    superpose_embedding(module.get_input_embeddings())
    ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1, bag_size))
    loss = MultiHotCrossEntropy((1 / bag_size,) * bag_size, impl="eager")
    with FlopCounterMode(display=False) as counter:
        main, auxiliary = module(ids[:, :-1], ids[:, 1:], loss)
        sum(auxiliary.values(), main).backward()
    return counter.get_total_flops(), module.model


@pytest.mark.parametrize("bag_size", [1, 4])
@pytest.mark.parametrize(
    ("config", "experts"),
    [
        pytest.param(LlamaConfig(**SIZES), None, id="llama"),
        pytest.param(LlamaConfig(**GROUPED), None, id="llama, grouped queries"),
        pytest.param(LlamaConfig(**GROUPED, tie_word_embeddings=True), None, id="llama, tied"),
        pytest.param(Qwen3Config(**GROUPED, head_dim=16), None, id="qwen3, wide heads"),
        pytest.param(Qwen3MoeConfig(**EXPERTS), "eager", id="qwen3-moe"),
        pytest.param(Qwen3MoeConfig(**EXPERTS), "batched_mm", id="qwen3-moe, batched"),
    ],
)
def test_a_step_has_the_flops_that_torch_counts(config, experts, bag_size):
    """With bags too: superposition adds no product."""
    flops, model = counted(config, bag_size, experts=experts)
    assert flops == ROWS * LENGTH * flops_per_position(model, LENGTH)


@pytest.mark.parametrize("heads", [1, 2])
def test_heads_of_multi_token_prediction_are_counted(heads):
    options = MultiToken(heads=heads)
    flops, model = counted(LlamaConfig(**GROUPED), bag_size=4, multi_token=options)
    added = AuxiliaryLosses(model, options).matrix_parameters
    assert added == heads * (2 * WIDTH * WIDTH + VOCABULARY * WIDTH)
    assert flops == ROWS * LENGTH * flops_per_position(model, LENGTH, added)


@pytest.mark.parametrize(("config", "last_products"), [
    pytest.param(LlamaConfig(**GROUPED), 80 * WIDTH, id="llama"),
    # The sum over a position's experts needs their outputs in the backward pass.
    pytest.param(Qwen3MoeConfig(**EXPERTS), 0, id="qwen3-moe"),
])  # fmt: skip
def test_activation_checkpointing_adds_a_forward_pass_of_the_layers(config, last_products):
    """And of each layer not its last product, if nothing in the backward pass needs its result."""
    experts = "batched_mm" if hasattr(config, "num_experts") else None
    flops, model = counted(config, experts=experts)
    again, same_model = counted(config, experts=experts, recomputed=True)
    assert flops_per_position(same_model, LENGTH) == flops_per_position(model, LENGTH)
    added = recomputed_flops_per_position(model, LENGTH)
    assert again - flops == ROWS * LENGTH * (added - 2 * LAYERS * last_products)
    with set_checkpoint_early_stop(False):
        again, _ = counted(config, experts=experts, recomputed=True)
    assert again - flops == ROWS * LENGTH * added
    outlined = Outlined(config)
    assert outlined.recomputed_share(LENGTH) == added / flops_per_position(model, LENGTH) < 1 / 3


def test_fused_attention_adds_only_the_scores_it_computes_again():
    flops, model = counted(LlamaConfig(**GROUPED), attention="sdpa")
    scores_again = ROWS * LENGTH * 2 * LAYERS * WIDTH * LENGTH
    assert flops == ROWS * LENGTH * flops_per_position(model, LENGTH) + scores_again


def test_shared_experts_are_always_active():
    sizes = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = Qwen2MoeConfig(**GROUPED, **sizes, shared_expert_intermediate_size=40)
    flops, model = counted(config, experts="eager")
    layer = model.model.layers[0].mlp
    layer.shared_experts = layer.shared_expert  # as other families name it
    del layer.shared_expert
    assert any(".shared_experts." in name for name, _ in model.named_parameters())
    assert flops == ROWS * LENGTH * flops_per_position(model, LENGTH)


def test_what_is_not_counted_is_refused():
    class Convolving(torch.nn.Module):
        config = LlamaConfig(**SIZES)

        def __init__(self):
            super().__init__()
            self.mixer = torch.nn.Conv1d(4, 4, 3)

    with pytest.raises(UserError, match=r"'mixer\.weight' has 3 dimensions and is no expert's"):
        matrix_parameters(Convolving())

    class Latent(torch.nn.Module):
        config = DeepseekV3Config(**SIZES, kv_lora_rank=16)

    with pytest.raises(UserError, match="latent attention"):
        flops_per_position(Latent(), LENGTH)
