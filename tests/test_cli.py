"""The command line as its users meet it: help, composition of configs, and what bad input gets."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from tst_lightning import cli
from tst_lightning.errors import UserError
from tst_lightning.run.lightning_cli import parse_fit

TINY_MODEL = {
    "vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": None,
}  # fmt: skip


@pytest.fixture
def fit(prepared_dir, tmp_path):
    """Arguments of a ``fit`` of four steps that works, to which a test adds its own."""
    model = {"model": {"config": {"class_path": "transformers.LlamaConfig", "init_args": TINY_MODEL}}}
    data = {"data": {"data_dir": str(prepared_dir), "sequence_length": 16, "batch_size": 4, "num_workers": 0}}
    trainer = {
        "accelerator": "cpu", "devices": 1, "max_steps": 4, "max_epochs": -1, "num_sanity_val_steps": 0,
        "default_root_dir": str(tmp_path / "run"), "enable_progress_bar": False, "enable_model_summary": False,
        "check_val_every_n_epoch": None, "val_check_interval": 2, "log_every_n_steps": 1,
        "callbacks": [{"class_path": "callbacks.StepCheckpoint", "init_args": {"every_n_steps": 2, "keep_all": True}},
                      {"class_path": "callbacks.Throughput"}],
    }  # fmt: skip
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(model | data | {"trainer": trainer}))
    return ["fit", "--config", str(path)]


@pytest.fixture
def tst(tmp_path):
    """A method overlay, as configs/method/tst.yaml is one."""

    def overlay(**options):
        callback = {"class_path": "callbacks.SuperpositionCallback", "init_args": {"bag_size": 4} | options}
        path = tmp_path / "tst.yaml"
        path.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
        return ["--config", str(path)]

    return overlay


HEAVY = ("torch", "transformers", "datasets", "lm_eval", "lightning", "matplotlib", "litdata", "jsonargparse")


@pytest.mark.parametrize("statement", ["import tst_lightning", "from tst_lightning.cli import main; main(['--help'])"])
def test_nothing_heavy_is_imported_for_help(statement):
    code = f"{statement}; import sys; print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_of_our_commands_imports_no_torch(command):
    code = (
        f"import sys; from tst_lightning.cli import main\ntry: main(['{command}', '--help'])\n"
        "except SystemExit: pass\nprint('TORCH', 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f"usage: tst-lightning {command}" in done.stdout
    assert "TORCH False False" in done.stdout


def test_help_names_every_command(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    commands = ["fit", "validate", "test", "prepare", "mutual-information", "ngram", "evaluate", "compare", "report"]
    assert all(f"\n  {name} " in text for name in [*commands, "export"])


def test_fit_validate_test_and_resume(fit, tst, tmp_path, capsys):
    """One run through all of Lightning's commands, and the files that it leaves."""
    assert cli.main([*fit, *tst(step_ratio=0.5)]) == 0
    run = tmp_path / "run"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step=2.ckpt", "step=4.ckpt", "last.ckpt"}
    progress = json.loads((run / "progress.json").read_text())
    assert progress["done"] is True
    assert progress["data_tokens"] == 4 * 16 * (2 * 4 + 2)
    assert progress["positions"] == 4 * 16 * 4
    assert progress["val_loss"] > 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["callbacks"][-1]["init_args"]["step_ratio"] == 0.5
    assert list(run.glob("events.out.tfevents.*"))

    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for command in ("validate", "test"):
        assert (
            cli.main([command, "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")])
            == 0
        )
        assert "val/bits_per_byte" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files, "validating writes nothing"

    resume = [*fit, *tst(step_ratio=0.5), "--ckpt_path", str(run / "checkpoints/step=2.ckpt")]
    assert cli.main([*resume, "--trainer.default_root_dir", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "progress.json").read_text())["val_loss"] == progress["val_loss"]


def test_a_used_folder_is_not_overwritten_but_resumed(fit, tmp_path, capsys):
    assert cli.main(fit) == 0
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(fit) == 2
    assert "holds the checkpoints of another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert cli.main([*fit, "--ckpt_path", "last", "--trainer.max_steps=6"]) == 0
    assert json.loads((run / "progress.json").read_text())["step"] == 6


def test_validating_needs_a_model(fit, capsys):
    assert cli.main(["validate", *fit[1:]]) == 2
    assert "nothing to validate: give --ckpt_path" in capsys.readouterr().err


def test_the_method_overlay_is_all_that_makes_the_baseline_tst(fit, tst):
    parse_fit([*fit[1:]])
    parse_fit([*fit[1:], *tst(step_ratio=0.3)])


CALLBACK = "--trainer.callbacks+=callbacks.SuperpositionCallback"
EVALUATION = "--trainer.callbacks+=callbacks.DownstreamEvaluation"
BAG = "--trainer.callbacks.bag_size"
RATIO = "--trainer.callbacks.step_ratio=0.5"
BAD_INPUTS = {
    "vocabulary": (["--model.config.init_args.vocab_size=100"], "vocabulary has 257 tokens, the model's 100"),
    "sequence": (["--data.sequence_length=500"], "sequence_length=500 is longer than the model's 64 positions"),
    "tokens": (["--trainer.max_steps=100000"], "100,000 steps need 6,800,000 tokens of '.*', which has .* set epochs="),
    "no steps": (["--trainer.max_steps=-1"], "set trainer.max_steps"),
    "bag size 0": ([CALLBACK, f"{BAG}=0", RATIO], "^error: bag_size=0: give an integer"),
    "bag size text": ([CALLBACK, f"{BAG}=two", RATIO], "SuperpositionCallback: bag_size=two: give an integer"),
    "recovery": ([CALLBACK, f"{BAG}=4", "--trainer.callbacks.recovery_step=4"], "until step 4 leaves no recovery"),
    "group": ([CALLBACK, f"{BAG}=3", RATIO, "--data.rows_per_group=4"], "rows_per_group=4 is not divisible"),
    "two methods": ([CALLBACK, f"{BAG}=4", RATIO] * 2, "has 2 SuperpositionCallbacks, .* lay over one of .*tst.yaml"),
    "two checkpoints": (["--trainer.callbacks+=StepCheckpoint"], "has 2 StepCheckpoints, .* your trainer file"),
    "config": (["--config", "{missing}"], "File does not exist"),
    "key": (["--config", "{unknown}"], "hiden_size"),
    "flag": (["--trainer.max_step=3"], "max_step"),
    "data": (["--data.data_dir", "{missing}"], "no prepared corpus at"),
    "checkpoint": (["--ckpt_path", "{missing}"], "there is no checkpoint at"),
    "no last": (["--ckpt_path", "last"], "there is no checkpoint at .*run/checkpoints/last.ckpt"),
    "no checkpoint": (["--ckpt_path", "{file}"], "is not a whole checkpoint"),
    "output": (
        ["--trainer.default_root_dir", "{file}/run"],
        r"trainer.default_root_dir '[^']*' cannot be written \(Not a directory\): "
        r"give a folder, which '[^']*/file' is not$",
    ),
    "accelerator": (["--trainer.accelerator=nope"], "trainer.accelerator='nope': choose auto, gpu, .*cpu"),
    "no task": ([EVALUATION, "--trainer.callbacks.tasks=[no_such_task]"], "no task is called 'no_such_task'"),
    "task data": ([EVALUATION, "--trainer.callbacks.tasks=[hellaswag]"], "data of task 'hellaswag' .* the hub is away"),
    "bundled task": ([EVALUATION, "--trainer.callbacks.tasks=[heldout]"], "heldout.* prepare"),
}
"""What a user may get wrong in a ``fit``, and the message that they get."""


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gets_one_message_and_status_2(case, fit, prepared_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tst_lightning.evaluation.task_loading.why_no_hub", lambda: "the hub is away")
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "unknown.yaml").write_text("model: {hiden_size: 3}\n")
    places = {"missing": tmp_path / "missing", "file": tmp_path / "file", "unknown": tmp_path / "unknown.yaml"}
    arguments, message = BAD_INPUTS[case]
    arguments = [argument.format(**places) for argument in arguments]
    before = {path: path.stat().st_mtime_ns for path in prepared_dir.rglob("*")}
    assert cli.main([*fit, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert {path: path.stat().st_mtime_ns for path in prepared_dir.rglob("*")} == before
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_a_refused_resume_leaves_the_run_as_it_was(fit, tst, tmp_path, capsys):
    assert cli.main([*fit, *tst(step_ratio=0.5)]) == 0
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    checkpoint = ["--ckpt_path", str(run / "checkpoints/step=2.ckpt")]
    assert cli.main([*fit, *tst(step_ratio=0.25), *checkpoint]) == 2
    assert "the switch was at step 2 of 4" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_from_another_runs_config_lives_in_its_own_folder(fit, tmp_path):
    assert cli.main(fit) == 0
    first, second = tmp_path / "run", tmp_path / "second"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    config = ["--config", str(first / "config.yaml"), "--trainer.default_root_dir", str(second), "--data.seed", "5"]
    assert cli.main(["fit", *config]) == 0
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert yaml.safe_load((second / "config.yaml").read_text())["data"]["seed"] == 5
    assert len(list(second.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fti"], "unknown command 'fti' (did you mean fit?): choose from fit, validate"),
        (["report", "nowhere"], "'nowhere' holds no comparison"),
        (["report"], "output_dir"),
        (["evaluate", "--ckpt_path", "nowhere.ckpt", "--tasks", "heldout"], "no checkpoint at 'nowhere.ckpt'"),
        (["compare", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["prepare", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["prepare", "--source=TextFiles", "--source.paths=[nowhere]", "--tokenizer=Bytes", "--output_dir=x"],
            "nowhere",
        ),
    ],
)
def test_bad_input_of_the_other_commands(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_error_of_a_loader_worker_is_one_line(monkeypatch, capsys):
    """torch raises it again with the worker's traceback as its text."""

    def fail(*_arguments):
        message = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n ..."
        raise UserError(f"{message}\ntst_lightning.errors.UserError: a shard is missing: fetch it\n")

    monkeypatch.setattr("tst_lightning.cli._dispatch", fail)
    assert cli.main(["fit"]) == 2
    assert capsys.readouterr().err == "error: a shard is missing: fetch it\n"
