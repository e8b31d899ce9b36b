"""The loss that balances experts, against what the models themselves add to their loss."""

import pytest
import torch
from runs import ROWS, SEQUENCE_LENGTH, tiny_llama, tiny_module
from transformers import MixtralConfig, OlmoeConfig, PhimoeConfig, Qwen2MoeConfig, Qwen3MoeConfig

from tst_lightning.auxiliary.router import SUPPORTED, router_balance
from tst_lightning.bags import shift, superpose_embedding
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy

SIZES = {
    "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 256,
    "pad_token_id": None, "num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": 0.7,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "moe_intermediate_size": 8, "decoder_sparse_step": 1}
CONFIGS = {
    "mixtral": lambda **options: MixtralConfig(**SIZES | {"num_local_experts": 6} | options),
    "olmoe": lambda **options: OlmoeConfig(**SIZES | {"num_experts": 6} | options),
    "qwen2_moe": lambda **options: Qwen2MoeConfig(**SIZES | EXPERTS | {"shared_expert_intermediate_size": 8} | options),
    "qwen3_moe": lambda **options: Qwen3MoeConfig(**SIZES | EXPERTS | {"mlp_only_layers": [1]} | options),
}


def module_of(config):
    module = tiny_module(config)
    module.configure_model()
    with torch.no_grad():  # routers of random weights are nearly balanced, whatever they are given
        for name, parameter in module.model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.mul_(500)
    return module


def test_all_supported_models_are_tested():
    assert set(CONFIGS) == set(SUPPORTED)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_sum_of_both_losses_is_the_models_own(kind):
    """Value and gradients; the main loss stays what it is without."""
    torch.manual_seed(0)
    module = module_of(CONFIGS[kind]())
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1))
    main, auxiliary = module(tokens[:, :-1, None], tokens[:, 1:, None], module.loss)
    assert list(auxiliary) == ["router"]
    own = module.model(input_ids=tokens[:, :-1], labels=tokens[:, 1:], shift_labels=tokens[:, 1:].contiguous())
    torch.testing.assert_close(auxiliary["router"], 0.7 * own.aux_loss)
    torch.testing.assert_close(main + auxiliary["router"], own.loss)
    # Not the value of evenly used experts, which would be any function's.
    assert auxiliary["router"].item() > 1.005 * 0.7 * 2
    parameters = list(module.model.parameters())
    ours = torch.autograd.grad(main + auxiliary["router"], parameters, allow_unused=True)
    theirs = torch.autograd.grad(own.loss, parameters, allow_unused=True)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_bags_are_balanced_too():
    """The router sees averaged embeddings; by hand from the share and the probability of each expert."""
    module = module_of(CONFIGS["qwen3_moe"](mlp_only_layers=[]))
    superpose_embedding(module.get_input_embeddings())
    bags = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1, 4))
    _, auxiliary = module(*shift(bags), MultiHotCrossEntropy((0.25,) * 4))
    embedded = module.get_input_embeddings()(bags[:, :-1])
    logits = torch.cat(module.model.model(inputs_embeds=embedded, use_cache=False).router_logits)
    assert logits.shape == (3 * ROWS * SEQUENCE_LENGTH, 6)
    probabilities = logits.softmax(-1)
    sent = torch.zeros_like(logits).scatter(-1, logits.topk(2).indices, 1.0)
    expected = 0.7 * 6 * (sent.mean(0) * probabilities.mean(0)).sum()
    torch.testing.assert_close(auxiliary["router"], expected)


def test_there_is_none_in_evaluation_and_without_the_option():
    tokens = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1, 1))
    module = module_of(CONFIGS["qwen3_moe"]())
    assert module.eval()(*shift(tokens), module.loss)[1] == {}
    for options in ({"output_router_logits": False}, {"router_aux_loss_coef": 0.0}):
        module = module_of(CONFIGS["qwen3_moe"](**options))
        assert module(*shift(tokens), module.loss)[1] == {}


def test_other_mixtures_are_refused():
    with pytest.raises(UserError, match=r"known for mixtral, .*qwen3_moe and not for phimoe: set it to false"):
        router_balance(PhimoeConfig(output_router_logits=True))
    assert router_balance(PhimoeConfig(output_router_logits=False)) is None
    assert router_balance(tiny_llama()) is None
