"""tst_lightning.modeling.activation_checkpointing: layers compute twice, and train the same weights, bit by bit.

Under several processes: ``tests/parallel/test_recomputation.py``. Bytes: ``tests/plan/test_plan_memory.py``.
"""

import copy
import pickle
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from runs import ROWS, SEQUENCE_LENGTH, tiny_data, tiny_llama, tiny_module, tiny_trainer, weights_hash
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import CTRLConfig, GPT2Config, OpenAIGPTConfig, PretrainedConfig, Qwen3MoeConfig

from callbacks import SuperpositionCallback
from tst_lightning.auxiliary.multi_token import MultiToken
from tst_lightning.bags import superpose_embedding
from tst_lightning.errors import UserError
from tst_lightning.modeling import compilation
from tst_lightning.modeling.activation_checkpointing import recompute_layers, require_recomputable

STEPS, SWITCH, LAYERS = 4, 2, 2
SPECIAL = {"vocab_size": 257, "bos_token_id": None, "eos_token_id": 256}
SIZES = SPECIAL | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
ROUTER_LOSS = Qwen3MoeConfig(**SIZES, **EXPERTS, num_key_value_heads=2, pad_token_id=None, output_router_logits=True)
DROPOUT = GPT2Config(**SPECIAL, n_positions=64, n_embd=16, n_layer=LAYERS, n_head=2)
TIED = tiny_llama(tie_word_embeddings=True)
ISOLATED = {"packing": "best_fit", "isolate_documents": True, "packing_rows": 32}


class Watch(L.Callback):
    """Losses of the steps, and how often a layer's MLP has begun in training mode."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.begun = 0

    def on_fit_start(self, trainer, pl_module) -> None:
        def count(part: nn.Module, _inputs) -> None:
            self.begun += part.training

        for name, part in pl_module.model.named_modules():
            if name.endswith(".mlp") and pl_module.compilation == "none":
                part.register_forward_pre_hook(count)

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(folder: Path, data_dir: Path, config=None, data=None, model=None, ckpt_path=None, **options):
    """What a run of 4 steps has left, with validations in between."""
    torch.manual_seed(5)  # of dropout
    module, watch = tiny_module(config, **(model or {})), Watch()
    callbacks = [SuperpositionCallback(bag_size=4, recovery_step=SWITCH), watch]
    trainer = tiny_trainer(folder, STEPS, callbacks, val_check_interval=SWITCH, **options)
    trainer.fit(module, tiny_data(data_dir, **(data or {})), ckpt_path=ckpt_path, weights_only=True)
    return watch, module


@pytest.mark.parametrize(("config", "data", "model", "options"), [
    pytest.param(TIED, ISOLATED, {"multi_token": MultiToken(2)}, {}, id="isolated documents, tied, multi-token heads"),
    pytest.param(DROPOUT, {}, {}, {"precision": "bf16-mixed", "accumulate_grad_batches": 2}, id="dropout, autocast"),
    pytest.param(ROUTER_LOSS, {}, {}, {}, id="router loss"),
])  # fmt: skip
def test_losses_and_weights_are_those_of_an_ordinary_run(
    prepared_source: Path, tmp_path: Path, config: PretrainedConfig, data: dict, model: dict, options: dict
) -> None:
    ordinary, expected = fit(tmp_path, prepared_source, config, data, model, **options)
    model = model | {"activation_checkpointing": True}
    recomputed, module = fit(tmp_path, prepared_source, config, data, model, **options)
    assert recomputed.losses == ordinary.losses
    assert weights_hash(module) == weights_hash(expected)
    assert ordinary.begun == LAYERS * len(ordinary.losses)
    assert recomputed.begun == 2 * ordinary.begun


@pytest.mark.parametrize("bag_size", [1, 4])
def test_a_layer_keeps_its_input_and_nothing_else(bag_size: int) -> None:
    """By how much one more layer makes the forward pass keep more."""

    def kept_bytes(layers: int, recomputed: bool) -> int:
        """Of activations: each storage once, weights left out."""
        module = tiny_module(tiny_llama(num_hidden_layers=layers), activation_checkpointing=recomputed)
        module.configure_model()
        superpose_embedding(module.get_input_embeddings())
        weights = {parameter.data_ptr() for parameter in module.parameters()}
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = tensor
            return tensor

        ids = torch.zeros(ROWS, SEQUENCE_LENGTH, bag_size, dtype=torch.int32)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = module(ids, ids, module.loss)
        assert loss.requires_grad
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    of_input = ROWS * SEQUENCE_LENGTH * 16 * 4
    assert kept_bytes(3, True) - kept_bytes(2, True) == of_input
    assert kept_bytes(3, False) - kept_bytes(2, False) > 8 * of_input


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_goes_on_with_the_option_flipped(first: bool, prepared_source: Path, tmp_path: Path) -> None:
    options = {"activation_checkpointing": first}
    _, whole = fit(tmp_path, prepared_source, model=options, save_every=SWITCH)
    at_switch = tmp_path / "checkpoints" / f"step={SWITCH}.ckpt"
    names = torch.load(at_switch, weights_only=True)["state_dict"].keys()
    assert names == {f"model.{name}" for name in tiny_module().new_model(0).state_dict()}
    options = {"activation_checkpointing": not first}
    watch, resumed = fit(tmp_path / "on", prepared_source, model=options, ckpt_path=str(at_switch))
    assert weights_hash(resumed) == weights_hash(whole)
    assert watch.begun == LAYERS * (STEPS - SWITCH) * (1 if first else 2)


def test_a_model_is_copied_and_pickled_and_evaluated_as_any_other() -> None:
    module = tiny_module(activation_checkpointing=True)
    module.configure_model()
    ids = torch.arange(8)[None]
    expected = tiny_module().new_model(0).eval()(ids).logits
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with torch.inference_mode():
            assert torch.equal(other.model.eval()(ids).logits, expected)
            assert not other.get_input_embeddings()(ids).requires_grad


def test_models_that_cannot_are_refused_by_name(prepared_source: Path, tmp_path: Path) -> None:
    config = OpenAIGPTConfig(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    module = tiny_module(config, activation_checkpointing=True)
    with pytest.raises(UserError, match=r"cannot recompute the layers of OpenAIGPTLMHeadModel: set it to false"):
        tiny_trainer(tmp_path, 1).fit(module, tiny_data(prepared_source))
    assert module.model is None
    with pytest.raises(UserError, match="CTRLLMHeadModel"):
        require_recomputable(CTRLConfig())
    require_recomputable(tiny_llama())
    require_recomputable(PretrainedConfig())  # of a model outside transformers: known once it is built
    with pytest.raises(UserError, match="OpenAIGPTLMHeadModel"):
        recompute_layers(tiny_module(config).new_model(0))


@pytest.fixture
def fresh_compiler():
    """Graphs and limits are the process'."""
    config = torch._dynamo.config
    torch._dynamo.reset()
    with config.patch(recompile_limit=config.recompile_limit, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


NO_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("config", "expected_graphs"), [
    pytest.param(None, 1, id="llama"),
    # Two layers that collect their router's logits in different places: without the option as many.
    pytest.param(ROUTER_LOSS, 2, id="router loss"),
])  # fmt: skip
def test_compiled_layers_are_recomputed_without_further_graphs(
    prepared_source: Path, tmp_path: Path, monkeypatch, config, expected_graphs: int
) -> None:
    """Not one more at the switch, and none for validation."""
    graphs = CompileCounter()
    monkeypatch.setattr(compilation, "BACKEND", graphs)
    ordinary, expected = fit(tmp_path, prepared_source, config)
    compiled = {"activation_checkpointing": True, "compilation": "lazy"}
    recomputed, module = fit(tmp_path, prepared_source, config, model=compiled)
    assert graphs.frame_count == expected_graphs
    assert recomputed.losses == ordinary.losses
    assert weights_hash(module) == weights_hash(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("backend", "config", "mode"), [
    pytest.param("aot_eager", DROPOUT, "lazy", id="aot_eager, dropout"),
    pytest.param("aot_eager", ROUTER_LOSS, "ahead", id="aot_eager, router loss"),
    pytest.param("inductor", None, "ahead", marks=NO_COMPILER, id="inductor"),
])  # fmt: skip
def test_graphs_with_their_own_backward(
    prepared_source: Path, tmp_path: Path, monkeypatch, backend: str, config, mode: str
) -> None:
    """The compiler decides by itself what it recomputes, dropout's random numbers included: the same losses."""
    monkeypatch.setattr(compilation, "BACKEND", backend)
    ordinary, _ = fit(tmp_path, prepared_source, config)
    compiled = {"activation_checkpointing": True, "compilation": mode}
    recomputed, _ = fit(tmp_path, prepared_source, config, model=compiled)
    torch.testing.assert_close(torch.tensor(recomputed.losses), torch.tensor(ordinary.losses), rtol=2e-6, atol=0)


@pytest.mark.slow
@NO_COMPILER
@pytest.mark.usefixtures("fresh_compiler")
def test_inductor_draws_dropout_again_as_it_was(monkeypatch) -> None:
    """Its numbers are its own, so what is compared is the gradient with differences of the loss, in fp64."""
    monkeypatch.setattr(compilation, "BACKEND", "inductor")
    module = tiny_module(DROPOUT, activation_checkpointing=True)
    module.configure_model()
    module.double()
    layers = compilation.CompiledLayers(module.model)
    ids = torch.randint(257, (ROWS, SEQUENCE_LENGTH + 1, 1), generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        torch.manual_seed(3)
        with layers.training():
            return module(ids[:, :-1], ids[:, 1:], module.loss)[0]

    loss().backward()
    gradients = {p: p.grad.clone() for name, p in module.model.named_parameters() if ".h." in name}

    @torch.no_grad()
    def move(factor: float) -> None:
        for parameter, gradient in gradients.items():
            parameter += factor * gradient

    step, losses = 1e-6, []
    for factor in (step, -2 * step):
        move(factor)
        losses.append(loss().item())
    squared = sum((gradient**2).sum().item() for gradient in gradients.values())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(squared, rel=1e-6)
