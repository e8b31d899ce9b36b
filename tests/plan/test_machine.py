"""tst_lightning.plan.machine: files of configs/machine, and what is no machine."""

from pathlib import Path

import pytest

from tst_lightning.errors import UserError
from tst_lightning.plan.machine import machine_of

FILES = sorted((Path(__file__).parents[2] / "configs" / "machine").glob("*.yaml"))


def test_shipped_machines_are_read():
    assert len(FILES) >= 4
    for path in FILES:
        machine = machine_of(str(path), "bf16-mixed", None, None, None)
        assert machine.memory_gb > 0
        assert machine.peak_flops("bf16-mixed") > machine.peak_flops("32-true") > 1e11
        assert machine.mfu is None  # not a datasheet's


def test_options_come_before_the_file():
    machine = machine_of(str(FILES[0]), "32-true", 12.5, 3, 0.25)
    assert (machine.memory_gb, machine.peak_flops("32-true"), machine.mfu) == (12.5, 3e12, 0.25)
    assert machine_of(None, "bf16-mixed", None, None, None).peak_flops("bf16-mixed") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("memory_gb: 0", "memory_gb is 0"),
        ("memory_gb: lots", "memory_gb is 'lots'"),
        ("peak_tflops: 3", "peak_tflops is a mapping"),
        ("peak_tflops: {tf32: 3}", "peak_tflops of tf32"),
        ("mfu: 1.5", "mfu is 1.5"),
        ("gpus: 8", "has gpus"),
        ("- 1", "has no keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_no_machine_is_refused(content, message, tmp_path):
    path = tmp_path / "machine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        machine_of(str(path), "32-true", None, None, None)


def test_a_missing_file_names_those_that_exist():
    with pytest.raises(UserError, match=r"h100_sxm\.yaml"):
        machine_of(str(FILES[0].with_name("b300.yaml")), "32-true", None, None, None)


@pytest.mark.parametrize("options", [(float("nan"), None, None), (None, -1, None), (None, None, 0)])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="give a number above 0"):
        machine_of(None, "32-true", *options)
