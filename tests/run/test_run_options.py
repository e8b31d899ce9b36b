from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator

from tst_lightning.errors import UserError
from tst_lightning.run import options as run_options
from tst_lightning.run.options import require_devices, require_optimizer


@pytest.mark.parametrize(
    "options",
    [
        {"fused": True, "foreach": True},  # a RuntimeError of torch
        {"lr": -1.0},  # a ValueError
        {"momentum": 0.9},  # a TypeError
    ],
)
def test_options_that_the_optimizer_refuses(options: dict) -> None:
    with pytest.raises(UserError, match=r"model.optimizer refuses its options: .*(fused|learning rate|momentum)"):
        require_optimizer(partial(torch.optim.AdamW, **options))


def test_options_that_it_takes() -> None:
    require_optimizer(partial(torch.optim.AdamW, lr=1e-3, fused=True))


def given(accelerator, devices: object = 1) -> SimpleNamespace:
    return SimpleNamespace(accelerator=accelerator, devices=devices)


@pytest.fixture
def two_gpus(monkeypatch) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    monkeypatch.setattr(run_options, "available_cores", lambda: 2)
    for name in ("LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
def test_a_device_that_is_not_there(no_gpu, accelerator: str) -> None:
    message = rf"trainer.accelerator='{accelerator}': .* only cpu: set --trainer.accelerator cpu"
    with pytest.raises(UserError, match=message):
        require_devices(given(accelerator))


def test_an_accelerator_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"accelerator='nope': choose auto, gpu, .*cpu, cuda, "):
        require_devices(given("nope"))


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (9, "devices=9 starts 9 processes on the CPU, and there are 2 cores .* --trainer.devices 1, or at most 8"),
        ("9", "devices=9 starts 9 processes"),
        ("0,1", "devices='0,1' with the accelerator cpu, .* number of processes"),
        (-1, "devices=-1 with the accelerator cpu"),
        ([0], r"devices=\[0\] with the accelerator cpu"),
    ],
)
def test_processes_on_a_cpu(no_gpu, devices: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_devices(given("auto", devices))


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"])
def test_processes_that_are_there_already(no_gpu, monkeypatch, name: str) -> None:
    """srun and torchrun may give each one a core of its own, which is all that it sees of the machine."""
    monkeypatch.setenv(name, "0")
    require_devices(given("cpu", 9))
    with pytest.raises(UserError, match="number of processes"):
        require_devices(given("cpu", "0,1"))


@pytest.mark.parametrize("devices", [1, 8, "auto", "2"])
def test_processes_that_it_takes(no_gpu, devices: object) -> None:
    require_devices(given("cpu", devices))


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (3, "devices=3 asks for 3, and this machine has 2 cuda devices, 0 to 1: set --trainer.devices 2"),
        ("3", "devices='3' asks for 3"),
        ("0,2,5", "devices='0,2,5' names 2, 5, and"),
        ([-1], r"devices=\[-1\] names -1, and"),
    ],
)
def test_gpus_that_are_not_there(two_gpus, devices: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_devices(given("gpu", devices))


@pytest.mark.parametrize("devices", [1, 2, -1, "-1", "auto", "0,1", "1,", [1]])
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto"])
def test_gpus_that_are(two_gpus, accelerator: str, devices: object) -> None:
    require_devices(given(accelerator, devices))


def test_an_accelerator_that_is_an_object_knows_itself() -> None:
    require_devices(given(CPUAccelerator(), "anything"))
