"""Strategies and models that do not go together are refused by name, before anything is built."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from runs import tiny_data, tiny_llama, tiny_module, tiny_trainer
from transformers import GPT2Config, Qwen3Config, Qwen3MoeConfig

from tst_lightning.errors import UserError
from tst_lightning.modeling.strategies import REFUSED, require_launched, require_mesh, require_supported


def model_parallel(tensor_parallel_size):
    size = SimpleNamespace(size=lambda: tensor_parallel_size)
    return SimpleNamespace(device_mesh={"tensor_parallel": size})


@pytest.mark.parametrize("name", REFUSED)
def test_strategies_that_hide_matrices_are_refused(name):
    with pytest.raises(UserError, match=rf"strategy {name} is not supported \(.*ddp.yaml.*ModelParallelStrategy"):
        require_supported(type(name, (), {})())


def test_the_names_are_lightnings():
    """A renamed class would go unnoticed."""
    from lightning.pytorch import strategies

    assert all(hasattr(strategies, name) for name in REFUSED)


CASES = {
    "no plan": (GPT2Config(), 2, r"of type arcee, .*, and not for gpt2:"),
    "experts": (Qwen3MoeConfig(), 2, r"of type arcee, .*, and not for qwen3_moe:"),
    "attention heads": (tiny_llama(), 4, r"num_attention_heads=2, num_key_value_heads=2: choose a size"),
    "key and value heads": (tiny_llama(num_attention_heads=4, num_key_value_heads=1), 2, r"num_key_value_heads=1:"),
    "hidden units": (tiny_llama(intermediate_size=33), 2, r"model's intermediate_size=33:"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_models_that_cannot_be_split_are_refused(case):
    config, size, message = CASES[case]
    with pytest.raises(UserError, match=rf"tensor_parallel_size={size}.*{message}.*tensor_parallel_size to 1"):
        require_supported(model_parallel(size), config)
    require_supported(model_parallel(1), config)


@pytest.mark.parametrize("config", [tiny_llama(), Qwen3Config()], ids=["llama", "qwen3"])
def test_models_with_plans_are_taken(config):
    require_supported(model_parallel(2), config)


def test_the_module_asks_before_it_builds(prepared_dir, tmp_path):
    module = tiny_module(Qwen3MoeConfig(num_hidden_layers=1))
    trainer = tiny_trainer(tmp_path, 6)
    trainer.datamodule = tiny_data(prepared_dir)
    trainer.strategy.device_mesh = model_parallel(2).device_mesh
    module.trainer = trainer
    with pytest.raises(UserError, match=r"tensor_parallel_size=2.*qwen3_moe"):
        module.setup("fit")
    assert module.model is None


def model_parallel_trainer(tmp_path, **sizes):
    return tiny_trainer(tmp_path, 6, devices=4, num_nodes=2, strategy=ModelParallelStrategy(**sizes))


@pytest.mark.parametrize("sizes", [(3, 2), (8, 2), (8, "auto"), ("auto", 1)])
def test_sizes_that_are_not_the_processes_are_refused(sizes, tmp_path):
    trainer = model_parallel_trainer(tmp_path, data_parallel_size=sizes[0], tensor_parallel_size=sizes[1])
    with pytest.raises(UserError, match=r"devices=4 \* num_nodes=2 is 8: .* data_parallel_size to 8"):
        require_mesh(trainer)


@pytest.mark.parametrize("sizes", [(8, 1), (4, 2), ("auto", "auto"), (2, "auto")])
def test_sizes_that_are_the_processes_are_taken(sizes, tmp_path):
    require_mesh(model_parallel_trainer(tmp_path, data_parallel_size=sizes[0], tensor_parallel_size=sizes[1]))
    require_mesh(tiny_trainer(tmp_path, 6, devices=2, strategy="ddp"))


def test_several_machines_without_anything_that_starts_them_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    several = tiny_trainer(tmp_path, 6, devices=2, num_nodes=2, strategy="ddp")
    with pytest.raises(UserError, match=r"num_nodes=2, and this process was started by neither srun nor torchrun"):
        require_launched(several)
    require_launched(tiny_trainer(tmp_path, 6, devices=2, strategy="ddp"))
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    require_launched(several)


def test_a_lightning_that_names_its_sizes_otherwise_checks_them_itself(tmp_path):
    trainer = model_parallel_trainer(tmp_path, data_parallel_size=3)
    del trainer.strategy._data_parallel_size
    require_mesh(trainer)


def test_checkpoints_number_parameters_as_the_module_does(prepared_dir, tmp_path):
    """As ``ModelParallelStrategy`` reads them, and not as the optimizer's groups have them."""
    module = tiny_module()
    tiny_trainer(tmp_path, 1, save_every=1).fit(module, tiny_data(prepared_dir))
    (saved,) = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    (held,) = (optimizer.state for optimizer in module.trainer.optimizers)
    parameters = list(module.parameters())
    assert sorted(saved["state"]) == list(range(len(parameters)))
    for number, parameter in enumerate(parameters):
        assert torch.equal(saved["state"][number]["exp_avg_sq"], held[parameter]["exp_avg_sq"])
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    assert numbers == [
        next(n for n, parameter in enumerate(parameters) if parameter is wanted)
        for group in module.trainer.optimizers[0].param_groups
        for wanted in group["params"]
    ]
    assert numbers != sorted(numbers)
