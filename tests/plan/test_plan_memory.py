"""tst_lightning.plan.memory: against the allocator of real runs, real optimizers' state, and real shards."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from runs import tiny_data, tiny_llama, tiny_module, tiny_trainer

from tst_lightning import losses
from tst_lightning.errors import UserError
from tst_lightning.optimizers import MuonWithAdamW, parameter_groups
from tst_lightning.plan.memory import memory
from tst_lightning.plan.model_size import module_of
from tst_lightning.plan.run import fit_plan


def load_benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "plan_memory.py"
    specification = importlib.util.spec_from_file_location("plan_memory", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


benchmark = load_benchmark()
LLAMA = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip


def planned(**changes):
    config = benchmark.configuration("llama", 1, "chunked", "32-true", 4, positions=16)
    config["model"]["config"]["init_args"] |= LLAMA
    for part, values in changes.items():
        config[part] |= values
    plan = fit_plan(config)
    return memory(plan, lambda: module_of(config), plan.schedule)


@pytest.mark.parametrize(
    ("model", "bag_size", "impl", "precision", "recomputed"),
    [
        ("llama", 4, "chunked", "bf16-mixed", False),
        pytest.param("gpt2", 1, "eager", "32-true", False, marks=pytest.mark.slow),
        pytest.param("llama", 4, "chunked", "bf16-mixed", True, marks=pytest.mark.slow),
    ],
)
def test_within_15_percent_of_what_the_allocator_gave_out(model, bag_size, impl, precision, recomputed):
    config = benchmark.configuration(model, bag_size, impl, precision, rows=4, recomputed=recomputed)
    assert benchmark.estimated_bytes(config) == pytest.approx(benchmark.measured_bytes(config), rel=0.15)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, MuonWithAdamW])
def test_states_are_those_of_the_real_optimizer(kind):
    class_path = "torch.optim.AdamW" if kind is torch.optim.AdamW else "tst_lightning.optimizers.MuonWithAdamW"
    estimate = planned(model={"optimizer": {"class_path": class_path, "init_args": {"lr": 1e-3}}})
    module = tiny_module(tiny_llama(max_position_embeddings=512))
    module.model = module.new_model(0)
    real = kind(parameter_groups(module), lr=1e-3)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    real.step()
    states = [value for state in real.state.values() for value in state.values() if torch.is_tensor(value)]
    parameters = list(module.model.parameters())
    assert estimate.state_bytes["gradients"] == sum(p.numel() * 4 for p in parameters)
    assert estimate.state_bytes["parameters"] == sum(t.nbytes for t in [*parameters, *module.model.buffers()])
    assert estimate.state_bytes["optimizer"] == sum(state.nbytes for state in states)


@pytest.mark.parametrize("processes", [3, 8])
def test_shards_are_rows_of_every_weight(processes):
    """``fully_shard`` cuts the first dimension in equal parts, and rounds up; norms and small weights too."""
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": processes, "tensor_parallel_size": 1},
    }
    sharded = planned(trainer={"devices": processes, "strategy": strategy})
    whole = planned()
    module = tiny_module(tiny_llama())
    weights = list(module.new_model(0).parameters())
    of_first = sum(math.ceil(len(w) / processes) * w[0].numel() * 4 for w in weights)
    buffers = whole.state_bytes["parameters"] - sum(w.numel() * 4 for w in weights)
    assert sharded.state_bytes["parameters"] == of_first + buffers
    assert sharded.state_bytes["gradients"] == of_first
    assert sharded.state_bytes["optimizer"] == 2 * of_first + 4 * len(weights)  # AdamW counts steps
    assert sharded.checkpoint_bytes == whole.checkpoint_bytes
    assert not torch.distributed.is_initialized()
    assert module.device_mesh is None


def test_ddp_holds_gradients_twice():
    alone, together = planned(), planned(trainer={"devices": 2, "strategy": "ddp"})
    assert together.peak.total_bytes == alone.peak.total_bytes + alone.state_bytes["gradients"]
    options = {"gradient_as_bucket_view": True}
    views = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": options}
    once = planned(trainer={"devices": 2, "strategy": views})
    assert once.peak.by_kind["gradients"] == once.state_bytes["gradients"]


def test_tensor_parallelism_halves_layers_and_refuses_what_cannot_be_split():
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 1, "tensor_parallel_size": 2},
    }
    split, whole = planned(trainer={"devices": 2, "strategy": strategy}), planned()
    layers = 2 * (4 * 16 * 16 + 3 * 16 * 32) * 4
    assert whole.state_bytes["gradients"] - split.state_bytes["gradients"] == layers // 2
    options = strategy["init_args"] | {"tensor_parallel_size": 3}
    with pytest.raises(UserError, match="does not divide"):
        planned(trainer={"devices": 3, "strategy": strategy | {"init_args": options}})


def test_activations_grow_with_rows_and_eager_logits_count():
    few, many = planned(), planned(data={"batch_size": 8})
    assert many.peak.by_kind["activations"] == pytest.approx(2 * few.peak.by_kind["activations"], rel=0.05)
    eager = planned(model={"loss_impl": "eager"}, data={"batch_size": 64})
    assert eager.peak.total_bytes > planned(data={"batch_size": 64}).peak.total_bytes
    assert eager.peak.by_kind["loss"] >= 64 * 16 * 257 * 4


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_activation_checkpointing_a_layer_keeps_its_input(sharded):
    """By how much another layer adds to what is there when a step is at its fullest."""
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1},
    }
    trainer = {"devices": 2, "strategy": strategy} if sharded else {}

    def kept(layers, recomputed):
        config = {"class_path": "transformers.LlamaConfig", "init_args": LLAMA | {"num_hidden_layers": layers}}
        model = {"config": config, "activation_checkpointing": recomputed}
        return planned(model=model, data={"batch_size": 64}, trainer=trainer).peak.by_kind["activations"]

    of_input = 64 * 16 * 16 * 4
    assert kept(4, True) - kept(3, True) == of_input
    assert kept(4, False) - kept(4, True) > 3 * 8 * of_input


def test_nothing_fake_stays_behind():
    planned()
    module = tiny_module()
    module.configure_model()
    hidden, head = torch.ones(4, 16), module.get_output_embeddings().weight
    loss = losses.linear_multi_hot_cross_entropy(hidden, head, torch.zeros(4, 1, dtype=torch.long), (1.0,))
    assert math.isfinite(loss.item())
    assert losses.CHUNK_ELEMENTS["cpu"] == 2**20


def test_a_checkpoint_has_the_size_that_is_planned(prepared_dir, tmp_path):
    module = tiny_module()
    tiny_trainer(tmp_path, max_steps=2, save_every=2).fit(module, datamodule=tiny_data(prepared_dir))
    written = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size
    assert 0 <= written - planned().checkpoint_bytes < 60_000  # names, configuration, schedule
