"""Layers that recompute their activations train the same weights under every strategy."""

import pytest
import torch
from parallel_runs import (
    STEPS,
    SWITCH,
    TST,
    Fit,
    assert_same_weights,
    assert_trains_what_one_does,
    fit_all,
)

pytestmark = pytest.mark.slow
TIED = {"tie_word_embeddings": True}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}


def values(recomputed, model=None, **others):
    """Of a run that ends with an error if layers compute more or less often than they should."""
    counter = {"class_path": "forward_counter.ForwardCounter", "init_args": {"times": 2 if recomputed else 1}}
    model = (model or {}) | {"activation_checkpointing": recomputed}
    return {"model": model, "callbacks": [TST, counter]} | others


@pytest.mark.parametrize("name", ["untied", "tied, multi-token heads", "accumulated gradients"])
def test_two_processes_train_what_one_does_without_it(name, prepared_dir, tmp_path):
    others = {
        "untied": {},
        "tied, multi-token heads": {"model": {"multi_token": {"heads": 2, "weight": 0.3}}, "config": TIED},
        "accumulated gradients": {"trainer": {"accumulate_grad_batches": 2, "val_check_interval": 2 * SWITCH}},
    }[name]
    strategies = ("ddp", "fsdp2", "tensor_parallel")
    fits = [Fit(tmp_path / strategy, 2, strategy, values=values(True, **others)) for strategy in strategies]
    one, *runs = fit_all(prepared_dir, Fit(tmp_path / "one", values=values(False, **others)), *fits)
    for run in runs:
        assert_trains_what_one_does(run, one)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_mixture_with_its_router_loss_ends_with_the_same_bits(strategy, prepared_dir, tmp_path):
    """Experts are balanced over the batch of a process, so one process is no reference here."""
    mixture = {"family": "Qwen3Moe", "config": EXPERTS}
    fits = [Fit(tmp_path / str(how), 2, strategy, values=values(how, **mixture)) for how in (False, True)]
    ordinary, recomputed = fit_all(prepared_dir, *fits)
    assert recomputed.losses == ordinary.losses
    assert_same_weights(recomputed, ordinary, STEPS, atol=0)


def test_sharded_weights_go_on_with_the_option_flipped(prepared_dir, tmp_path):
    """The names in their checkpoint are the ordinary ones."""
    resume = (f"--ckpt_path={tmp_path}/whole/checkpoints/step={SWITCH}.ckpt",)
    whole = Fit(tmp_path / "whole", 2, "fsdp2", values=values(True))
    resumed = Fit(tmp_path / "resumed", 2, "fsdp2", resume, values(False))
    whole, resumed = fit_all(prepared_dir, whole, resumed)
    assert all(torch.isfinite(value).all() for value in whole.weights().values())
    assert all("model.model.layers.0.mlp.up_proj.weight" in run.weights() for run in (whole, resumed))
    assert_same_weights(resumed, whole, STEPS, atol=0)
