"""tst_lightning.modeling.export: Hugging Face folders of checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pseudo_corpus import write_byte_tokenizer
from runs import tiny_llama
from safetensors import safe_open
from safetensors.torch import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedModel

from tst_lightning import cli
from tst_lightning.data.manifest import Manifest
from tst_lightning.errors import UserError
from tst_lightning.modeling.checkpoint import load_model
from tst_lightning.modeling.export import export

IDS = torch.arange(12)[None]


def save(model: torch.nn.Module, path: Path, **changes) -> Path:
    parameters = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    parameters |= {"heads.0.weight": torch.ones(16, 16), "loss.weight": torch.ones(3)}
    content = {"state_dict": parameters, "hugging_face_config": model.config.to_dict(), "global_step": 3}
    torch.save(content | changes, path)
    return path


def model_of(config) -> torch.nn.Module:
    return AutoModelForCausalLM.from_config(config).eval()


def read_back(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("tied", [False, True])
def test_folder_holds_the_model_of_the_checkpoint(tmp_path: Path, tied: bool) -> None:
    """Names, weights, ties and logits; what is not under the module's ``model`` stays behind."""
    model = model_of(tiny_llama(tie_word_embeddings=tied))
    out = tmp_path / "new" / "out"
    export(str(save(model, tmp_path / "a.ckpt")), str(out))
    loaded = read_back(out)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert set(file.keys()) == model.state_dict().keys() - ({"lm_head.weight"} if tied else set())
    assert torch.equal(load_model(out)[0](IDS).logits, model(IDS).logits)  # what `evaluate` reads
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == tmp_path.joinpath("new").stat().st_mode & 0o777


@pytest.mark.parametrize(("saved", "asked", "expected"), [
    ("float32", "auto", "float32"), ("bfloat16", "auto", "bfloat16"),
    ("float32", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32"),
])  # fmt: skip
def test_precision(tmp_path: Path, saved: str, asked: str, expected: str) -> None:
    model = model_of(tiny_llama()).to(getattr(torch, saved))
    export(str(save(model, tmp_path / "a.ckpt")), str(tmp_path / "out"), dtype=asked)
    loaded = read_back(tmp_path / "out")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == getattr(torch, expected)
        assert torch.equal(tensor, model.state_dict()[name].to(tensor.dtype))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == expected


def test_tokenizer_of_the_run(tmp_path: Path, prepared_dir: Path, capsys) -> None:
    config = tiny_llama()
    config.bos_token_id, config.eos_token_id = 1, 2
    trained_with = Manifest.load(prepared_dir).tokenizer.hash
    changes = {"data_dir": str(prepared_dir), "TokenDataModule": {"tokenizer": trained_with}}
    path = save(model_of(config), tmp_path / "a.ckpt", **changes)
    assert cli.main(["export", "--ckpt_path", str(path), "--output_dir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM" in said
    assert "(step 3)" in said
    assert f"with the tokenizer of '{prepared_dir}/tokenizer'" in said
    assert "add_special_tokens" not in said
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "out"), read_back(tmp_path / "out")
    ids = tokenizer("Tëxt.", return_tensors="pt")
    assert ids["input_ids"].shape == (1, 6)
    assert tokenizer.decode(ids["input_ids"][0]) == "Tëxt."
    # Generation begins and ends as documents do: at end-of-text, whatever the configuration class has as default.
    generation = model.generation_config
    assert (generation.eos_token_id, generation.bos_token_id, generation.pad_token_id) == (256, 256, 256)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 256
    assert model.generate(**ids, max_new_tokens=3, min_new_tokens=3).shape == (1, 9)


def test_another_folders_tokenizer(tmp_path: Path, prepared_dir: Path, capsys) -> None:
    write_byte_tokenizer(tmp_path / "own")
    path = save(model_of(tiny_llama()), tmp_path / "a.ckpt", data_dir="gone")
    for number, folder in enumerate([tmp_path / "own", prepared_dir]):
        export(str(path), str(tmp_path / f"out{number}"), tokenizer=str(folder))
        assert AutoTokenizer.from_pretrained(tmp_path / f"out{number}").eos_token_id == 256
    assert f"'{tmp_path}/own'" in capsys.readouterr().out


def test_tokenizer_that_adds_tokens_is_named(tmp_path: Path, capsys) -> None:
    from tokenizers import processors

    write_byte_tokenizer(tmp_path / "own")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "own")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    tokenizer.save_pretrained(tmp_path / "own")
    export(str(save(model_of(tiny_llama()), tmp_path / "a.ckpt")), str(tmp_path / "out"), str(tmp_path / "own"))
    assert "add_special_tokens=False" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, "does not name the data"),
    ({"data_dir": "gone"}, "no tokenizer at 'gone/tokenizer'"),
    ({"data_dir": "{prepared}", "TokenDataModule": {"tokenizer": "another"}}, "prepared anew"),
])  # fmt: skip
def test_without_a_tokenizer(tmp_path: Path, prepared_dir: Path, capsys, changes: dict, reason: str) -> None:
    """Ids that the vocabulary lacks (GPT-2's 50256, of 257) are left out of the configurations."""
    changes = {key: str(prepared_dir) if value == "{prepared}" else value for key, value in changes.items()}
    model = model_of(GPT2Config(vocab_size=257, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    export(str(save(model, tmp_path / "a.ckpt", **changes)), str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "without a tokenizer" in said
    assert reason in said
    assert "--tokenizer DIR" in said
    assert not list((tmp_path / "out").glob("tokenizer*"))
    loaded = read_back(tmp_path / "out")
    assert loaded.generation_config.eos_token_id is loaded.config.bos_token_id is None
    assert loaded.generate(IDS, max_new_tokens=2).shape == (1, 14)


@pytest.mark.parametrize(("change", "message"), [
    ({"dtype": "float8"}, "dtype is 'float8': choose auto, float32, bfloat16"),
    ({"output_dir": "{tmp}/full"}, "full' is not empty"),
    ({"output_dir": "{tmp}/a.ckpt"}, "a.ckpt' is a file"),
    ({"output_dir": "{tmp}/a.ckpt/out"}, "cannot be written"),
    ({"ckpt_path": "{tmp}/absent.ckpt"}, "no checkpoint at"),
    ({"ckpt_path": "{tmp}/cut.ckpt"}, "not a readable checkpoint"),
    ({"ckpt_path": "{tmp}/other.ckpt"}, "has no 'hugging_face_config'"),
    ({"ckpt_path": "{tmp}/sharded.ckpt"}, "sharded.ckpt' is not a whole sharded checkpoint (meta.pt is missing"),
    ({"ckpt_path": "{tmp}/full"}, "full' is a folder"),
    ({"tokenizer": "{tmp}/full"}, "no tokenizer at '{tmp}/full'"),
    ({"tokenizer": "{tmp}/large"}, "has 258 ids, the model 257"),
])  # fmt: skip
def test_mistakes_leave_nothing(tmp_path: Path, change: dict, message: str) -> None:
    path = save(model_of(tiny_llama()), tmp_path / "a.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:3000])
    torch.save({"something": 1}, tmp_path / "other.ckpt")
    for name in ("full/mine", "sharded.ckpt/.metadata"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    write_byte_tokenizer(tmp_path / "large")
    large = AutoTokenizer.from_pretrained(tmp_path / "large")
    large.add_tokens(["more"])
    large.save_pretrained(tmp_path / "large")
    before = sorted(tmp_path.rglob("*"))
    values = {"ckpt_path": str(path), "output_dir": str(tmp_path / "out")}
    values |= {name: value.format(tmp=tmp_path) for name, value in change.items()}
    with pytest.raises(UserError) as error:
        export(**values)
    assert message.format(tmp=tmp_path) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_dtype_on_the_command_line(tmp_path: Path, capsys) -> None:
    path = save(model_of(tiny_llama()), tmp_path / "a.ckpt")
    command = ["export", "--ckpt_path", str(path), "--output_dir", str(tmp_path / "out"), "--dtype", "float8"]
    assert cli.main(command) == 2
    assert "float8" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch, kind: type) -> None:
    """A full disk comes as an ``OSError``, or as one of safetensors; what is not that is not hidden."""

    def fail(self, folder, **options):
        Path(folder, "config.json").write_text("{")
        raise kind(28, "No space left on device")

    path = save(model_of(tiny_llama()), tmp_path / "a.ckpt")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(UserError if kind is OSError else kind, match="No space left on device"):
        export(str(path), str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_safetensors_errors_are_recognised(tmp_path: Path, monkeypatch) -> None:
    """The class that safetensors raises where it cannot write is the one that ``export`` looks for."""
    path = save(model_of(tiny_llama()), tmp_path / "a.ckpt")

    def fail(self, folder, **options):
        shutil.rmtree(folder)
        save_model(self, str(Path(folder, "model.safetensors")))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(UserError, match="cannot be written"):
        export(str(path), str(tmp_path / "out"))
