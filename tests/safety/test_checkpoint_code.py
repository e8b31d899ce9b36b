"""A checkpoint may come from anywhere: reading it runs nothing, whoever reads it."""

import os

import pytest
import torch
from runs import tiny_data, tiny_module, tiny_trainer

from tst_lightning.errors import UserError
from tst_lightning.modeling.checkpoint import load_model, read_checkpoint
from tst_lightning.run.lightning_cli import RunCLI


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def poisoned(prepared_dir, tmp_path):
    """A checkpoint of a run, whole but for one value that runs code; and where that would show."""
    trainer = tiny_trainer(tmp_path / "run", max_steps=2, save_every=1)
    trainer.fit(tiny_module(), datamodule=tiny_data(prepared_dir))
    path = tmp_path / "run/checkpoints/step=1.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    mark = tmp_path / "ran"
    torch.save(checkpoint | {"extra": RunsCode(mark)}, path)
    return path, mark


def test_the_poison_works(poisoned):
    path, mark = poisoned
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("act", ["fit", "validate", "test"])
def test_lightning_reads_weights_only(act, poisoned, prepared_dir, tmp_path):
    """Without being told so: from a local file, where its ``weights_only`` is None."""
    path, mark = poisoned
    trainer = tiny_trainer(tmp_path / "again", max_steps=2)
    with pytest.raises(Exception, match="Weights only load failed"):
        getattr(trainer, act)(tiny_module(), datamodule=tiny_data(prepared_dir), ckpt_path=str(path))
    assert not mark.exists()


@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_we_read_weights_only(read, poisoned):
    path, mark = poisoned
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read(path)
    assert not mark.exists()


def test_the_model_of_a_checkpoint_brings_no_code(poisoned, tmp_path):
    """Its configuration may name a repository whose code is to be imported: the class of its type is taken instead."""
    path, mark = poisoned
    checkpoint = torch.load(path, weights_only=False)
    mark.rmdir()
    del checkpoint["extra"]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass M: pass\n")
    names = ("AutoConfig", "AutoModelForCausalLM")
    checkpoint["hugging_face_config"]["auto_map"] = dict.fromkeys(names, f"{tmp_path / 'code'}--own.M")
    torch.save(checkpoint, tmp_path / "code.ckpt")
    model, _ = load_model(tmp_path / "code.ckpt")
    assert type(model).__module__.startswith("transformers.")
    assert not mark.exists()


def test_a_checkpoint_does_not_configure_the_run():
    """Lightning would lay its ``hyper_parameters``, class paths among them, over the config: not here."""
    cli = RunCLI.__new__(RunCLI)
    cli.config = object()
    before = cli.config
    cli._parse_ckpt_path()
    assert cli.config is before
    from lightning.pytorch.cli import LightningCLI

    assert "_parse_ckpt_path" in vars(LightningCLI), "Lightning has renamed what is overridden here"
