"""``tst-lightning plan``: the command, as users call it."""

import json
import re
from pathlib import Path

import pytest

from tst_lightning import cli
from tst_lightning.plan.summary import byte_count, duration

ROOT = Path(__file__).parents[2]
SMALL = ["model/llama_250k", "data/demo", "trainer/cpu", "method/tst"]


def arguments(*names: str, **options) -> list[str]:
    files = [word for name in names for word in ("--config", str(ROOT / "configs" / f"{name}.yaml"))]
    return ["plan", *files, *(f"--{name}={value}" for name, value in options.items())]


def test_prints_and_writes_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    machine = ROOT / "configs" / "machine" / "cpu.yaml"
    status = cli.main([*arguments(*SMALL), "--machine", str(machine), "--mfu", "0.5", "--json", "plan.json", "--check"])
    printed = capsys.readouterr().out
    assert status == 3
    assert max(map(len, printed.splitlines())) <= 100
    titles = ["Plan", "Parameters", "Work", "Data", "Memory", "Checkpoints", "Advice", "Check"]
    assert re.findall(r"^\w+", printed, re.M) == titles
    for text in ("superposition s=4", "'data/demo' is not prepared yet", "fits: ", "s=1 (the baseline)", "MFU 0.50"):
        assert text in printed
    values = json.loads((tmp_path / "plan.json").read_text())
    assert values["total"]["flops"] == sum(phase["flops"] for phase in values["phases"])
    assert values["total"]["seconds"] == pytest.approx(values["total"]["flops"] / (0.5 * 0.64e12))
    assert values["total"]["device_hours"] == pytest.approx(values["total"]["seconds"] / 3600)
    assert sum(values["memory"]["by_kind"].values()) == values["memory"]["total_bytes"]
    assert values["check"]["problems"] == ["'data/demo' is not prepared yet: run `tst-lightning prepare`"]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.slow
def test_what_can_run_passes_the_check(prepared_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"data.data_dir": prepared_dir, "data.sequence_length": 16, "trainer.max_steps": 10, "memory_gb": 8}
    assert cli.main([*arguments(*SMALL, **small), "--check", "--trainer.precision", "32-true"]) == 0
    assert re.search(r"^Check +passed", capsys.readouterr().out, re.M)
    assert cli.main([*arguments(*SMALL, **small), "--check", "false", "--memory_gb", "0.000001"]) == 0
    assert "do not fit either" in capsys.readouterr().out


def test_a_mixture_on_gpus_is_planned_without_gpus_or_memory(capsys):
    """Fewer layers than configs/model/qwen3_moe_10b_a1b.yaml, which takes longer; the weights are 3 GB."""
    few = {"model.config.init_args.num_hidden_layers": 1, "data.data_dir": "nowhere", "memory_gb": 80,
           "flops_budget": 2e20}  # fmt: skip
    assert cli.main(arguments("model/qwen3_moe_10b_a1b", "data/dclm_llama3", "trainer/fsdp2", **few)) == 0
    printed = capsys.readouterr().out
    assert "8 GPUs, FSDP2 over 8, bf16-mixed" in printed
    assert "gathered" in printed
    assert "No time: give --machine" in printed
    assert re.search(r"^Advice +extrapolated: s=", printed, re.M)
    assert "- extrapolated: a mixture of experts" in printed
    assert not re.search(r"gained|[0-9] nats", printed)


def test_device_hours_and_a_run_like_no_other(capsys, tmp_path):
    """152M (one layer of the 270M), 1,000 steps of 2^16 positions: 0.4 tokens per parameter."""
    changes = {"trainer.max_steps": 1000, "peak_tflops": 1000, "json": tmp_path / "plan.json", "mfu": 0.25}
    few = {"data.batch_size": 4, "trainer.accumulate_grad_batches": 1, "model.config.init_args.num_hidden_layers": 1}
    files = "model/llama_270m", "data/dclm_llama3", "trainer/fsdp2", "method/tst"
    assert cli.main(arguments(*files, **changes, **few)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^Advice +no s and no r for .*: measure$", printed, re.M)
    assert "no published run is like this: 0.432 tokens" in printed
    assert "nats" not in printed
    values = json.loads((tmp_path / "plan.json").read_text())
    assert values["recommendation"]["bag_size"] is None
    seconds = values["total"]["flops"] / (8 * 0.25 * 1e15)
    assert values["total"]["device_hours"] == pytest.approx(8 * seconds / 3600)
    hours = [phase["device_hours"] for phase in values["phases"]]
    assert sum(hours) == pytest.approx(values["total"]["device_hours"])
    assert re.search(rf"whole run .* {values['total']['device_hours']:.2g}$", printed, re.M)
    assert "as if it were not causal" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer.max_steps": -1}, "trainer.max_steps is -1"),
        ({"trainer.max_step": 3}, "max_step"),
        ({"machine": "b300.yaml"}, "machine 'b300.yaml' cannot be read"),
        ({"flops_budget": -3}, "flops_budget=-3"),
        ({"flops_budget": "nan"}, "flops_budget=nan: give a number of at least 1"),
        ({"flops_budget": "1e25x"}, "flops_budget=1e25x: give a number of at least 1, such as 5B"),
        ({"flops_budget": 5}, "does not pay for one position"),
        ({"token_budget": 0}, "token_budget=0"),
        ({"mfu": 2}, "mfu=2: give a share"),
        ({"mfu": "abc"}, "mfu=abc: give a share above 0 and at most 1, such as 0.4"),
        ({"memory_gb": 0}, "memory_gb=0: give a number above 0"),
        ({"check": "true"}, "check needs a device's memory: give --machine FILE"),
        ({"json": "."}, "is a folder"),
        ({"json": "nowhere/deep/plan.json"}, "there is no folder 'nowhere/deep'"),
        ({"model.config.init_args.num_attention_heads": 0}, "error: "),
    ],
)
def test_mistakes_get_one_message(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments(*SMALL, **options)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_is_not_there(capsys):
    assert cli.main(["plan", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (119, "119 s"), (600, "10 min"), (7200, "2.0 h"), (172_800, "2.0 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(12, "12 B"), (999_600, "1.00 MB"), (12_345_678, "12.3 MB"), (10**12, "1.00 TB")]
)
def test_bytes(number, text):
    assert byte_count(number) == text


@pytest.mark.slow
def test_the_documentation_shows_what_is_printed(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "plan.md").read_text()
    command = re.search(r"```bash\n(tst-lightning plan .*?)```", page, re.S)[1]
    shown = re.search(r"```text\n(Plan .*?)```", page, re.S)[1]
    assert cli.main(command.replace("\\\n", " ").split()[1:]) == 0
    assert capsys.readouterr().out.strip() == shown.strip()
