"""Muon beside AdamW from a config, in a run that is resumed, and with sharded weights."""

import math
import socket

import pytest
import torch
import torch.multiprocessing
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from runs import tiny_data, tiny_llama, tiny_trainer, weights_hash
from test_optimizers import Small

from callbacks import SuperpositionCallback
from tst_lightning.errors import UserError
from tst_lightning.module import CausalLMModule
from tst_lightning.optimizers import MuonWithAdamW, parameter_groups


def test_from_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=OptimizerCallable | None)
    options = {"lr": 0.02, "adamw_lr": 0.004, "betas": [0.8, 0.9], "weight_decay": 0.2, "momentum": 0.9}
    given = {"class_path": "tst_lightning.optimizers.MuonWithAdamW", "init_args": options}
    factory = parser.instantiate(parser.parse_object({"optimizer": given})).optimizer
    optimizer = factory(parameter_groups(Small()))
    assert isinstance(optimizer, MuonWithAdamW)
    muon, adamw, vectors = optimizer.param_groups
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (0.02, 0.9, 0.2)
    assert (adamw["lr"], adamw["betas"], adamw["weight_decay"]) == (0.004, (0.8, 0.9), 0.2)
    assert (vectors["lr"], vectors["weight_decay"]) == (0.004, 0.0)


def fit(prepared_dir, folder, checkpoint=None, save_every=0):
    """30 steps, the first 10 superposed; at the switch the optimizer's state and the embedding begin anew."""
    switch = {"bag_size": 2, "recovery_step": 10, "on_switch": "reset_optimizer", "reinitialize": "embedding_and_head"}

    class Watched(CausalLMModule):
        losses = []  # noqa: RUF012

        def training_step(self, *arguments):
            loss = super().training_step(*arguments)
            self.losses.append(loss.item())
            return loss

    module = Watched(tiny_llama(), optimizer=lambda _: MuonWithAdamW(parameter_groups(module), lr=0.01, adamw_lr=0.02))
    trainer = tiny_trainer(folder, 30, [SuperpositionCallback(**switch)], save_every)
    trainer.fit(module, tiny_data(prepared_dir), ckpt_path=checkpoint)
    return module


def test_a_run_learns_and_resumes_bit_identically(prepared_dir, tmp_path):
    module = fit(prepared_dir, tmp_path / "whole", save_every=15)
    assert module.losses[0] == pytest.approx(math.log(257), abs=0.2)
    assert sum(module.losses[-5:]) / 5 < module.losses[0] - 0.5
    [middle] = (tmp_path / "whole").rglob("step=15.ckpt")
    resumed = fit(prepared_dir, tmp_path / "resumed", middle)
    assert len(resumed.losses) == 15
    assert weights_hash(resumed) == weights_hash(module)


def papers(groups):
    return torch.optim.AdamW(groups, lr=1e-3)


def two_groups(groups):
    """As before there were kinds: matrices and vectors."""
    hidden, tables, vectors = groups
    groups = [{"params": hidden["params"] + tables["params"]}, {"params": vectors["params"], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3)


def trained_with(optimizer, prepared_dir, folder):
    """A checkpoint."""
    tiny_trainer(folder, 4, save_every=2).fit(
        CausalLMModule(tiny_llama(), optimizer=optimizer), tiny_data(prepared_dir)
    )
    return folder / "checkpoints" / "step=2.ckpt"


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (papers, MuonWithAdamW, r"trained with AdamW \(groups: hidden_matrices, .*, this run has MuonWithAdamW"),
        (MuonWithAdamW, papers, r"trained with MuonWithAdamW .*, this run has AdamW"),
        (two_groups, papers, r"AdamW \(groups: any parameters, any parameters\), this run has AdamW \(groups: hidden"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(before, now, message, prepared_dir, tmp_path):
    path = trained_with(before, prepared_dir, tmp_path)
    module = CausalLMModule(tiny_llama(), optimizer=now)
    with pytest.raises(UserError, match=message):
        tiny_trainer(tmp_path / "b", 4).fit(module, tiny_data(prepared_dir), ckpt_path=path)
    # Who validates needs no optimizer; and a new run after that goes on from nothing.
    trainer = tiny_trainer(tmp_path / "c", 2)
    trainer.validate(module, tiny_data(prepared_dir), ckpt_path=path, verbose=False)
    assert trainer.callback_metrics["val/loss"] > 0
    trainer.fit(module, tiny_data(prepared_dir))


def test_a_checkpoint_that_names_no_optimizer_is_known_by_its_groups(prepared_dir, tmp_path):
    """As earlier releases wrote them."""
    for name, before in (("two", two_groups), ("three", papers)):
        path = trained_with(before, prepared_dir, tmp_path / name)
        checkpoint = torch.load(path, weights_only=False)
        del checkpoint["optimizers"]
        torch.save(checkpoint, path)
        module, run = CausalLMModule(tiny_llama(), optimizer=papers), tiny_trainer(tmp_path / "b", 4)
        if before is papers:
            run.fit(module, tiny_data(prepared_dir), ckpt_path=path)
            assert run.global_step == 4
        else:
            with pytest.raises(UserError, match=r"trained with an optimizer \(groups: any parameters, any parameters"):
                run.fit(module, tiny_data(prepared_dir), ckpt_path=path)


def sharded_steps(rank, port, folder):
    """Two processes that each hold half of every parameter of ``Small``; the first writes the whole weights."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    module, whole = Small(), Small()
    del module.frozen
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = MuonWithAdamW(parameter_groups(module), lr=0.02, adamw_lr=0.003)
    for seed in range(3):
        whole.train_a_step(lambda: None, seed)
        for name, parameter in module.named_parameters():
            gradient = whole.get_parameter(name).grad
            parameter.grad = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
        optimizer.step()
    weights = {name: parameter.full_tensor() for name, parameter in module.state_dict().items()}
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
    destroy_process_group()


@pytest.mark.slow
def test_sharded_steps_are_those_of_whole_weights(tmp_path):
    """But for bf16, in which torch orthogonalises. The stack of 3 has 2 matrices in one process, 1 in the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(sharded_steps, (port, tmp_path), nprocs=2)
    sharded, module, start = torch.load(tmp_path / "weights.pt"), Small(), Small()
    optimizer = MuonWithAdamW(parameter_groups(module), lr=0.02, adamw_lr=0.003)
    for seed in range(3):
        module.train_a_step(optimizer.step, seed)
    for name, value in sharded.items():
        moved = (module.get_parameter(name) - start.get_parameter(name)).norm()
        assert (module.get_parameter(name) - value).norm() < 0.03 * moved, name
