"""tst_lightning.modeling.checkpoint: reading models back."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tst_lightning.errors import UserError
from tst_lightning.modeling.checkpoint import load_model


def tiny(**changes) -> torch.nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_attention_heads=2, **changes))


def save(model: torch.nn.Module, path: Path, prefix: str = "model.", **changes) -> Path:
    parameters = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": parameters, "hugging_face_config": model.config.to_dict(), "global_step": 3}
    torch.save(content | changes, path)
    return path


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod."])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_model_comes_back(tmp_path: Path, prefix: str, tied: bool, dtype: torch.dtype) -> None:
    model = tiny(tie_word_embeddings=tied).to(dtype)
    loaded, step = load_model(save(model, tmp_path / "a.ckpt", prefix))
    assert step == 3
    assert not loaded.training
    assert loaded.config.model_type == "llama"
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == dtype
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    ids = torch.arange(10)[None]
    # `to(bfloat16)` also rounds the rotary frequencies, which no checkpoint holds.
    if dtype == torch.float32:
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_exported_folder(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "exported")
    loaded, step = load_model(tmp_path / "exported")
    assert step is None
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)


def test_other_modules_entries_are_ignored(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "a.ckpt")
    content = torch.load(path)
    content["state_dict"]["loss.weight"] = torch.ones(1)
    torch.save(content, path)
    load_model(path)


class Unsafe:
    def __reduce__(self):
        return print, ("code of the checkpoint ran",)


def test_what_is_not_a_checkpoint(tmp_path: Path, capsys) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "cut.ckpt").write_bytes(save(tiny(), tmp_path / "a.ckpt").read_bytes()[:2000])
    (tmp_path / "folder").mkdir()
    torch.save({"something": 1}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    save(tiny(), tmp_path / "unsafe.ckpt", extra=Unsafe())
    save(tiny(), tmp_path / "mismatch.ckpt", hugging_face_config=tiny(head_dim=4).config.to_dict())
    save(tiny(), tmp_path / "unknown.ckpt", hugging_face_config={"model_type": "no_such_model"})
    expected = {
        "absent": "no checkpoint at", "text": "not a readable checkpoint", "empty": "not a readable checkpoint",
        "cut": "not a readable checkpoint", "other": "has no 'hugging_face_config'",
        "list": "has no 'hugging_face_config'", "unsafe": "not a readable checkpoint",
        "mismatch": "do not fit", "unknown": "do not fit",
    }  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(UserError, match=message):
            load_model(tmp_path / f"{name}.ckpt")
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path / "folder")
    assert "ran" not in capsys.readouterr().out
