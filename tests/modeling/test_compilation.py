"""tst_lightning.modeling.compilation: the layers of training steps through torch.compile.

Most tests compile for ``CompileCounter``, which runs the graphs as they are: it needs no compiler, and results are
those of the ordinary model to the bit.
"""

import copy
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer, weights_hash
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import GPT2Config, Qwen3MoeConfig, SmolLM3Config, modeling_layers

from callbacks import SuperpositionCallback
from tst_lightning.errors import UserError
from tst_lightning.modeling import compilation
from tst_lightning.modeling.activation_checkpointing import recompute_layers
from tst_lightning.modeling.compilation import CompiledLayers, batch_shapes, require_compilable
from tst_lightning.schedule import Schedule, Stage

STEPS = 6
ISOLATED = {"packing": "best_fit", "isolate_documents": True, "packing_rows": 32}
TST = {"bag_size": 4, "step_ratio": 0.5}
PATCH_LEVEL = {"bag_size": 2, "step_ratio": 0.5, "tokens_per_step": "constant"}

SPECIAL = {"bos_token_id": None, "eos_token_id": 256}
DROPOUT = GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=3, n_head=2, **SPECIAL)
SIZES = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": None}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
ROUTER_LOSS = Qwen3MoeConfig(**SIZES, **HEADS, **EXPERTS, **SPECIAL, head_dim=8, output_router_logits=True)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Graphs and limits are the process'."""
    config = torch._dynamo.config
    torch._dynamo.reset()
    with config.patch(recompile_limit=config.recompile_limit, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch) -> CompileCounter:
    """Counts what is compiled, as ``frame_count``."""
    counter = CompileCounter()
    monkeypatch.setattr(compilation, "BACKEND", counter)
    return counter


class Recorder(L.Callback):
    """Losses of the steps; with ``ahead`` also refuses to compile in them, and checks what compiling left behind."""

    def __init__(self, ahead: bool = False) -> None:
        self.losses: list[float] = []
        self.ahead = ahead

    def on_train_start(self, trainer, pl_module) -> None:
        if self.ahead:
            initial = pl_module.new_model(pl_module.init_seed)
            assert weights_hash(pl_module) == weights_hash(SimpleNamespace(model=initial))
            torch.compiler.set_stance("fail_on_recompile")

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        self.losses.append(float(outputs["loss"]))

    def teardown(self, trainer, pl_module, stage) -> None:
        torch.compiler.set_stance("default")


def fit(folder: Path, data_dir: Path, mode: str, superposition: dict, config=None, data=None, **options):
    """Losses and trained module of a run of 6 steps that validates after every second one."""
    torch.manual_seed(5)  # of dropout
    module = tiny_module(config, compilation=mode)
    recorder = Recorder(mode == "ahead")
    callbacks = [SuperpositionCallback(**superposition), recorder]
    trainer = tiny_trainer(folder, STEPS, callbacks, val_check_interval=2, **options)
    trainer.fit(module, datamodule=tiny_data(data_dir, **{"validation_batch_size": 3} | (data or {})))
    return recorder.losses, module


@pytest.mark.parametrize(("superposition", "config", "data", "expected_graphs"), [
    pytest.param(TST, None, {}, 1, id="switch of bag size"),
    pytest.param(PATCH_LEVEL, None, {}, 2, id="switch of rows"),
    pytest.param(TST, None, ISOLATED, 2, id="isolated documents"),
    pytest.param(TST, DROPOUT, {}, 1, id="dropout"),
    pytest.param(TST, ROUTER_LOSS, {}, 2, id="one graph a layer"),
])  # fmt: skip
def test_graphs_and_results(
    prepared_source: Path, tmp_path: Path, graphs, superposition: dict, config, data: dict, expected_graphs: int
) -> None:
    """As many graphs as shapes, none for validation; losses and weights of the run that compiles nothing."""
    expected_losses, expected = fit(tmp_path, prepared_source, "none", superposition, config, data)
    assert graphs.frame_count == 0
    for mode in ("lazy", "ahead"):
        graphs.clear()
        torch._dynamo.reset()
        losses, module = fit(tmp_path, prepared_source, mode, superposition, config, data)
        assert graphs.frame_count == expected_graphs
        assert losses == expected_losses
        assert weights_hash(module) == weights_hash(expected)


@pytest.mark.slow
def test_more_graphs_than_torch_allows_by_itself(prepared_source: Path, tmp_path: Path, graphs) -> None:
    """Two kinds of layers, three shapes, with and without a mask: 12, where torch gives up after 8."""
    superposition = {"bag_sizes": [4, 2, 1], "step_ratio": 0.6, "tokens_per_step": "constant"}
    config = SmolLM3Config(**SIZES, **HEADS, **SPECIAL, no_rope_layer_interval=2)
    fit(tmp_path, prepared_source, "ahead", superposition, config, ISOLATED)
    assert graphs.frame_count == 12


def test_shapes_of_a_schedule() -> None:
    stages = (Stage(0, 8, 8), Stage(1, 4, 4, row_divisor=4), Stage(2, 1, 1, sequence_length=16), Stage(3, 1, 1))
    assert batch_shapes(Schedule(stages), 8, 64) == [(8, 64), (2, 64), (32, 16)]


def test_model_is_ordinary_outside_training_steps(prepared_source: Path, tmp_path: Path, graphs) -> None:
    """Names in the checkpoint, copies, and forward passes of any shape, without another graph."""
    _, module = fit(tmp_path, prepared_source, "lazy", TST, save_every=STEPS)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    plain = tiny_module().new_model(0)
    assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in plain.state_dict()}
    copied = copy.deepcopy(module)
    for model in (module.model, copied.model.train()):
        for length in (3, 5, 7):
            model(torch.arange(length)[None]).logits.sum().backward()
    assert graphs.frame_count == 1
    with copied._compiled_layers.training():
        copied.model(torch.arange(3)[None], use_cache=False)
    assert graphs.frame_count == 2


def test_an_exception_in_a_step_leaves_the_model_ordinary(graphs) -> None:
    model = tiny_module().new_model(0)
    layers = CompiledLayers(model)
    with pytest.raises(KeyError), layers.training():
        raise KeyError
    model(torch.arange(3)[None])
    assert graphs.frame_count == 0


def test_torch_is_told_to_recompute_only_where_layers_do(graphs) -> None:
    """Of a release of torch without this private option, compilation alone works."""
    model = tiny_module().new_model(0)
    option = partial(getattr, torch._dynamo.config, "skip_fwd_side_effects_in_bwd_under_checkpoint")
    with CompiledLayers(model).training():
        assert not option()
    recompute_layers(model)
    with CompiledLayers(model).training():
        assert option()
    assert not option()


def test_releases_that_recompute_around_the_compiled_call(monkeypatch) -> None:
    require_compilable("lazy", "SingleDeviceStrategy", True)
    # As of 5.0 to 5.22.
    monkeypatch.setattr(modeling_layers.GradientCheckpointingLayer, "__call__", lambda *_: None)
    for compilation_, recomputed in (("none", True), ("lazy", False)):
        require_compilable(compilation_, "SingleDeviceStrategy", recomputed)
    with pytest.raises(UserError, match=r"transformers .* install 5\.23 or later, or set one of them"):
        require_compilable("lazy", "SingleDeviceStrategy", True)


def test_refusals(monkeypatch) -> None:
    with pytest.raises(UserError, match="compilation='on': choose none, lazy, ahead"):
        require_compilable("on", "SingleDeviceStrategy")
    require_compilable("none", "ModelParallelStrategy")
    with pytest.raises(UserError, match="not supported with ModelParallelStrategy"):
        require_compilable("lazy", "ModelParallelStrategy")
    with pytest.raises(UserError, match="does not name their class"):
        CompiledLayers(type("Odd", (nn.Linear,), {"_no_split_modules": None})(1, 1))

    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    model = tiny_module().new_model(0)
    remedy = r"no C\+\+ compiler found.*set compilation to none"
    with pytest.raises(UserError, match=remedy), CompiledLayers(model).training():
        model(torch.arange(3)[None])


SLOW = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")]


@pytest.mark.parametrize(("backend", "data"), [
    pytest.param("aot_eager", ISOLATED, id="aot_eager"),
    pytest.param("inductor", ISOLATED, marks=SLOW, id="inductor-isolated"),
    pytest.param("inductor", {}, marks=SLOW, id="inductor"),
])  # fmt: skip
def test_graphs_with_their_own_backward(
    prepared_source: Path, tmp_path: Path, monkeypatch, backend: str, data: dict
) -> None:
    """What compiles forward and backward: the same losses within rounding, and ahead the same weights as lazily."""
    monkeypatch.setattr(compilation, "BACKEND", backend)
    runs = {mode: fit(tmp_path, prepared_source, mode, PATCH_LEVEL, data=data) for mode in ("none", "lazy", "ahead")}
    losses = {mode: torch.tensor(recorded) for mode, (recorded, _) in runs.items()}
    torch.testing.assert_close(losses["lazy"], losses["none"], rtol=2e-6, atol=0)
    assert torch.equal(losses["lazy"], losses["ahead"])
    assert weights_hash(runs["lazy"][1]) == weights_hash(runs["ahead"][1])
