"""Sharded checkpoints: read whole, refused cut off, and never run."""

import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from runs import tiny_llama, tiny_module
from torch.distributed import checkpoint
from transformers import AutoModelForCausalLM

from tst_lightning.errors import UserError
from tst_lightning.modeling.checkpoint import load_model, read_checkpoint
from tst_lightning.modeling.export import export
from tst_lightning.modeling.sharded_checkpoint import (
    is_sharded_checkpoint,
    read_layout,
    read_run,
    read_weights,
    require_whole,
)
from tst_lightning.modeling.sharded_reading import ShardedReading, let_read
from tst_lightning.run.lightning_cli import RunCLI, parse_fit, require_checkpoint
from tst_lightning.run.resumable import require_resumable

IDS = torch.arange(12)[None]


def weights_of(model):
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | {"heads.up": torch.ones(3, 2)}


def save(model, path: Path, **changes) -> Path:
    """As Lightning's ModelParallelStrategy does, by one process; the optimizer's state after the weights."""
    moments = {name: {"exp_avg": torch.full((50_000,), 2.0)} for name in model.state_dict()}
    content = {"state_dict": weights_of(model), "optimizer_0": {"state": moments, "param_groups": [{"lr": 0.1}]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(content, checkpoint_id=path, no_dist=True)
    run = {"hugging_face_config": model.config.to_dict(), "global_step": 3, "pytorch-lightning_version": "2.6.0"}
    torch.save(run | changes, path / "meta.pt")
    return path


def model_of(config=None, dtype=torch.float32):
    return AutoModelForCausalLM.from_config(config or tiny_llama()).to(dtype).eval()


@pytest.fixture
def model():
    return model_of()


@pytest.fixture
def saved(model, tmp_path):
    return save(model, tmp_path / "last.ckpt")


def test_weights_and_the_run_are_read(model, saved):
    assert is_sharded_checkpoint(saved)
    assert read_run(saved)["global_step"] == read_checkpoint(saved)["global_step"] == 3
    read = read_weights(saved, "")
    assert read.keys() == weights_of(model).keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights_of(model).items())
    assert read_weights(saved, "heads.").keys() == {"heads.up"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_evaluate_and_export_get_the_model(tmp_path, tied, dtype, monkeypatch):
    """The optimizer's state, most of the file, is never read."""
    model = model_of(tiny_llama(tie_word_embeddings=tied), dtype)
    path = save(model, tmp_path / "last.ckpt")
    sizes, load = [], torch.load

    def counting(*arguments, **options):
        loaded = load(*arguments, **options)
        sizes.append(loaded.nbytes if isinstance(loaded, torch.Tensor) else 0)
        return loaded

    monkeypatch.setattr(torch, "load", counting)
    loaded, step = load_model(path)
    assert step == 3
    assert sum(sizes) == sum(tensor.nbytes for tensor in model.state_dict().values())
    export(str(path), str(tmp_path / "out"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    for other in (loaded, exported):
        assert (other.get_output_embeddings().weight is other.get_input_embeddings().weight) == tied
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
            assert other.state_dict()[name].dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_strategies_of_files_read_it_to_validate_and_refuse_to_train_on(model, saved):
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", devices=1, logger=False, barebones=True)
    let_read(trainer, None, "validate")
    assert not isinstance(trainer.strategy.checkpoint_io, ShardedReading)
    with pytest.raises(UserError, match=r"SingleDeviceStrategy does not resume from: use.*ModelParallelStrategy"):
        let_read(trainer, str(saved), "fit")
    let_read(trainer, str(saved), "validate")
    content = trainer.strategy.load_checkpoint(saved)
    assert content["global_step"] == 3
    module = tiny_module()
    module.configure_model()
    module.load_state_dict({name: value for name, value in content["state_dict"].items() if "heads" not in name})
    assert torch.equal(module.model.lm_head.weight, model.lm_head.weight)
    torch.save({"global_step": 4}, saved.parent / "file.ckpt")
    assert trainer.strategy.load_checkpoint(saved.parent / "file.ckpt")["global_step"] == 4


@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_one_that_a_killed_run_was_about_to_replace_is_read(saved, read):
    replaced = saved.with_name(".last.ckpt.replaced")
    saved.rename(replaced)
    read(saved)
    assert saved.exists()
    assert not replaced.exists()


def test_only_a_run_puts_it_back(saved, prepared_dir, tmp_path, monkeypatch):
    """To parse its arguments, as ``plan`` and ``compare`` do, changes nothing."""
    replaced = (tmp_path / "run" / "checkpoints").joinpath(".last.ckpt.replaced")
    replaced.parent.mkdir(parents=True)
    saved.rename(replaced)
    arguments = ["--model.config", "transformers.LlamaConfig", "--data.data_dir", str(prepared_dir)]
    arguments += ["--data.sequence_length", "16", "--data.batch_size", "4", "--trainer.max_steps", "4"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "run")]
    parse_fit(arguments)
    assert replaced.exists()
    monkeypatch.setattr(RunCLI, "instantiate_classes", lambda _: None)
    monkeypatch.setattr(RunCLI, "_run_subcommand", lambda *_: None)
    RunCLI(args=["fit", *arguments, "--ckpt_path", "last"])
    assert [path.name for path in replaced.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("config", "max_steps", "message"), [
    ({}, 2, r"is of step 3, after trainer\.max_steps=2: raise max_steps"),
    ({"hidden_size": 32}, 4, r"is of a model with .*hidden_size=16 \(this run: 32\)"),
])  # fmt: skip
def test_a_run_that_cannot_go_on_from_it_is_refused(saved, config, max_steps, message):
    require_resumable(str(saved), tiny_llama(), 4)
    require_resumable(str(saved), tiny_llama(), None)
    with pytest.raises(UserError, match=message):
        require_resumable(str(saved), tiny_llama(**config), max_steps)


def test_one_without_its_step_is_no_whole_checkpoint(model, tmp_path):
    path = save(model, tmp_path / "last.ckpt", global_step=None)
    with pytest.raises(UserError, match=r"is not a whole checkpoint \(it lacks global_step\)"):
        require_resumable(str(path), tiny_llama(), 4)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def shard(folder):
    return next(folder.glob("*.distcp"))


DAMAGE = {
    "no layout": (lambda folder: (folder / ".metadata").unlink(), r"\.metadata is missing"),
    "cut layout": (lambda folder: cut(folder / ".metadata"), r"\.metadata is missing or damaged"),
    "another pickle": (lambda folder: (folder / ".metadata").write_bytes(pickle.dumps([1])), "missing or damaged"),
    "no run": (lambda folder: (folder / "meta.pt").unlink(), r"meta\.pt is missing or cut off"),
    "cut run": (lambda folder: cut(folder / "meta.pt"), r"meta\.pt is missing or cut off"),
    "no shard": (lambda folder: shard(folder).unlink(), r"__0_0\.distcp is missing or cut off"),
    "cut shard": (lambda folder: cut(shard(folder)), r"__0_0\.distcp is missing or cut off"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_refused_before_a_run_is_built(saved, name):
    require_checkpoint(str(saved))
    damage, message = DAMAGE[name]
    damage(saved)
    for read in (require_checkpoint, load_model, lambda path: export(path, "out")):
        with pytest.raises(UserError, match=f"is not a whole sharded checkpoint.*{message}"):
            read(str(saved))
    assert not Path("out").exists()


def test_other_folders_are_no_checkpoints(tmp_path):
    (tmp_path / "some.ckpt").mkdir()
    with pytest.raises(UserError, match=r"some\.ckpt' is a folder, and not a sharded checkpoint"):
        require_checkpoint(str(tmp_path / "some.ckpt"))


class Unsafe:
    def __reduce__(self):
        return eval, ("print('code of the checkpoint ran')",)  # not print itself, which ray replaces


def rewritten(saved, change):
    layout = read_layout(saved)
    change(layout)
    (saved / ".metadata").write_bytes(pickle.dumps(layout))


@pytest.mark.parametrize("change", [
    lambda layout: setattr(layout, "planner_data", Unsafe()),
    lambda layout: setattr(layout.storage_meta, "save_id", Unsafe()),
])  # fmt: skip
def test_code_in_a_layout_does_not_run(saved, capsys, change):
    rewritten(saved, change)
    with pytest.raises(UserError, match=r"asks for builtins\.eval, which no table of contents needs"):
        require_whole(saved)
    with pytest.raises(UserError, match="asks for"):
        read_weights(saved, "")
    assert "ran" not in capsys.readouterr().out


def test_a_call_of_what_is_allowed_is_all_that_a_layout_can_do(saved, capsys):
    """Such as of the attributes of an allowed class, which a pickle of protocol 4 reaches by a dotted name."""
    for name in (b"Metadata.__init__.__globals__", b"os.system"):
        module = b"torch.distributed.checkpoint.metadata"
        (saved / ".metadata").write_bytes(b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)])
                                          + name + b"\x93.")  # fmt: skip
        with pytest.raises(UserError, match="no table of contents needs"):
            require_whole(saved)


def test_code_in_the_run_does_not_run(model, tmp_path, capsys):
    saved = save(model, tmp_path / "unsafe.ckpt", extra=Unsafe())
    for read in (read_checkpoint, lambda path: require_resumable(str(path), model.config, 4)):
        with pytest.raises(UserError, match="not a whole sharded checkpoint"):
            read(saved)
    assert "ran" not in capsys.readouterr().out


def test_files_elsewhere_are_not_read(saved, tmp_path):
    shutil.copy(shard(saved), tmp_path / "other.distcp")

    def elsewhere(layout):
        for part in layout.storage_data.values():
            part.relative_path = "../other.distcp"

    rewritten(saved, elsewhere)
    with pytest.raises(UserError, match=r"\.\./other\.distcp is missing"):
        require_whole(saved)
