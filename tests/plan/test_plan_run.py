"""tst_lightning.plan.run: what a configuration says of devices; and its phases, against what a run logs."""

import pytest
from lightning.pytorch.strategies import StrategyRegistry
from runs import tiny_data, tiny_llama, tiny_module, tiny_trainer

from callbacks import LengthCurriculum, SuperpositionCallback
from tst_lightning.errors import UserError
from tst_lightning.plan.checkpoints import checkpoints
from tst_lightning.plan.model_size import OutlinedModel, module_of
from tst_lightning.plan.phases import phases
from tst_lightning.plan.prepared import prepared
from tst_lightning.plan.run import DDP, FSDP2, SINGLE, fit_plan

NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id")  # fmt: skip
MODEL = {"class_path": "transformers.LlamaConfig", "init_args": {name: getattr(tiny_llama(), name) for name in NAMES}}


def configured(trainer=None, callbacks=(), **data):
    usual = {"max_steps": 12, "accumulate_grad_batches": 1, "precision": "32-true", "accelerator": "cpu", "devices": 1}
    sizes = {"data_dir": "nowhere", "batch_size": 4, "sequence_length": 16}
    named = [{"class_path": f"callbacks.{name}", "init_args": options} for name, options in callbacks]
    return {"model": {"config": MODEL}, "data": sizes | data, "trainer": usual | {"callbacks": named} | (trainer or {})}


def parallel(data, tensor):
    sizes = {"data_parallel_size": data, "tensor_parallel_size": tensor}
    return {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": sizes}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, (1, SINGLE, 1, 1, False)),
        ({"devices": "auto"}, (1, SINGLE, 1, 1, False)),
        ({"accelerator": "gpu", "devices": [0, 2]}, (2, DDP, 2, 1, True)),
        ({"accelerator": "gpu", "devices": "0,1,2", "num_nodes": 2}, (6, DDP, 6, 1, True)),
        ({"accelerator": "gpu", "devices": 8, "strategy": parallel(4, 2)}, (8, FSDP2, 4, 2, True)),
        ({"accelerator": "gpu", "devices": 8, "num_nodes": 2, "strategy": parallel("auto", "auto")},
         (16, FSDP2, 2, 8, True)),
        ({"strategy": "single_device"}, (1, SINGLE, 1, 1, False)),
        ({"devices": 2, "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy"}},
         (2, DDP, 2, 1, False)),
    ],
)  # fmt: skip
def test_devices(trainer, expected):
    found = fit_plan(configured(trainer)).devices
    assert (found.count, found.strategy, found.data_parallel, found.tensor_parallel, found.on_gpu) == expected


def test_all_names_of_ddp_are_planned_for():
    names = [name for name in StrategyRegistry if name.startswith("ddp")]
    assert {"ddp", "ddp_spawn", "ddp_fork"} < set(names)
    assert {fit_plan(configured({"devices": 2, "strategy": name})).devices.strategy for name in names} == {DDP}


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_steps": -1}, "trainer.max_steps is -1"),
        ({"devices": -1, "accelerator": "gpu"}, "does not say how many"),
        ({"devices": "many"}, "does not say how many"),
        ({"accelerator": "tpu"}, "accelerator=tpu is not planned for"),
        ({"strategy": "ddp_sharded"}, "strategy=ddp_sharded is not planned for"),
        ({"strategy": "deepspeed"}, "strategy=deepspeed is not planned for"),
        ({"precision": "transformer-engine"}, "precision=transformer-engine is not planned for"),
        ({"devices": 8, "strategy": parallel(4, 1)}, "is not the number of devices, 8"),
    ],
)
def test_what_cannot_be_planned_is_refused(trainer, message):
    with pytest.raises(UserError, match=message):
        fit_plan(configured(trainer))


CASES = {
    "baseline": (None, {}),
    "tst": (("SuperpositionCallback", {"bag_size": 4, "step_ratio": 0.5}), {}),
    "outputs": (("SuperpositionCallback", {"bag_size": 4, "step_ratio": 0.5, "superpose_inputs": False}), {}),
    "stages": (("SuperpositionCallback", {"bag_sizes": [4, 2, 1], "step_ratio": 0.5}), {}),
    "patches": (("SuperpositionCallback",
                 {"bag_size": 4, "step_ratio": 0.5, "fraction_of": "data", "tokens_per_step": "constant"}), {}),
    "packed": (("SuperpositionCallback", {"bag_size": 2, "step_ratio": 0.5}), {"packing": "best_fit"}),
    "lengths": (("LengthCurriculum", {"min_length": 4, "cycles": 2}), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_phases_add_up_to_what_the_run_logs(case, prepared_dir, tmp_path):
    callback, options = CASES[case]
    config = configured({"accumulate_grad_batches": 2}, [callback] if callback else [], **options)
    config["data"] |= {"data_dir": str(prepared_dir), "num_workers": 0, "validation_windows": 8}
    plan = fit_plan(config)
    corpus = prepared(plan)
    found = phases(plan, corpus, OutlinedModel(module_of(config)).flops_per_position)
    kinds = {"SuperpositionCallback": SuperpositionCallback, "LengthCurriculum": LengthCurriculum}
    built = [kinds[callback[0]](**callback[1])] if callback else []
    module = tiny_module()
    trainer = tiny_trainer(tmp_path, max_steps=12, callbacks=built, accumulate_grad_batches=2)
    trainer.fit(module, datamodule=tiny_data(prepared_dir, **options))
    logged = module.progress(12)
    assert sum(phase.steps for phase in found) == 12
    for name in ("flops", "positions", "data_tokens"):
        assert sum(getattr(phase, name) for phase in found) == logged[f"progress/{name}"]
    assert corpus.refused == ""
    if case not in ("packed", "lengths"):  # without the text, the same
        missing = prepared(fit_plan(config | {"data": config["data"] | {"data_dir": str(tmp_path / "none")}}))
        assert missing.tokens is None
        assert phases(plan, missing, OutlinedModel(module_of(config)).flops_per_position) == found


def test_too_little_text_is_told_as_fit_would(prepared_dir):
    config = configured({"max_steps": 100_000}, data_dir=str(prepared_dir))
    corpus = prepared(fit_plan(config))
    assert corpus.tokens > 90_000
    assert corpus.passes_needed > 60
    assert "prepare more text" in corpus.refused


@pytest.mark.parametrize(
    ("options", "count", "every"),
    [
        ({"every_n_steps": 100}, 1, 100),
        ({"every_n_steps": 100, "keep_all": True}, 4, 100),  # steps 100, 200 and 300, and the last
        ({"every_n_steps": 300}, 1, None),
        ({}, 1, None),  # 500
    ],
)
def test_checkpoints_of_300_steps(options, count, every):
    found = checkpoints(fit_plan(configured({"max_steps": 300}, [("StepCheckpoint", options)])), bytes_each=1000)
    assert (found.count, found.every_n_steps, found.disk_bytes) == (count, every, 1000 * (count + 1))
