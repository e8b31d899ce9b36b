"""Small training runs on the CPU, for tests of the module, the callbacks and the commands."""

import hashlib
from pathlib import Path

import lightning as L
import torch
from transformers import LlamaConfig, PretrainedConfig

from callbacks import StepCheckpoint
from tst_lightning.data.datamodule import TokenDataModule
from tst_lightning.module import CausalLMModule

SEQUENCE_LENGTH = 16
ROWS = 4


def tiny_llama(**changes) -> LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    options = sizes | {"vocab_size": 257, "max_position_embeddings": 64, "num_key_value_heads": 2} | changes
    return LlamaConfig(bos_token_id=None, eos_token_id=256, **options)


def tiny_module(config: PretrainedConfig | None = None, **options) -> CausalLMModule:
    return CausalLMModule(config=config or tiny_llama(), **options)


def tiny_data(folder: Path, **changes) -> TokenDataModule:
    options = {"sequence_length": SEQUENCE_LENGTH, "batch_size": ROWS, "num_workers": 0, "validation_windows": 8}
    return TokenDataModule(str(folder), **options | changes)


def tiny_trainer(folder: Path, max_steps: int, callbacks=(), save_every: int = 0, **options) -> L.Trainer:
    """A quiet trainer on one CPU device, fp32; with ``save_every`` it keeps every checkpoint."""
    checkpoints = [StepCheckpoint(every_n_steps=save_every, keep_all=True)] if save_every else []
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    usual = {"logger": False, "gradient_clip_val": 1.0, "check_val_every_n_epoch": None, "val_check_interval": 1000}
    return L.Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[*callbacks, *checkpoints],
        **(quiet | usual | {"accelerator": "cpu", "devices": 1, "enable_checkpointing": bool(save_every)} | options),
    )


def weights_hash(module: L.LightningModule) -> str:
    """The same hash means the same weights, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
