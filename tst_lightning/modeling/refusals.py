"""What a CausalLMModule refuses before its model is built: runs without an end, options that do not go together, data
that the model cannot read."""

from lightning.pytorch import LightningModule
from transformers import PretrainedConfig

from tst_lightning.errors import UserError
from tst_lightning.modeling.activation_checkpointing import require_recomputable
from tst_lightning.modeling.compilation import require_compilable
from tst_lightning.modeling.strategies import require_supported


def require_buildable(module: LightningModule, stage: str) -> None:
    """Refuse what would fail later, or train another thing than it says.

    Args:
        module: a CausalLMModule with its trainer, in ``setup``.
        stage: ``fit``, ``validate`` or ``test``.

    Raises:
        UserError: any of it.
    """
    trainer = module.trainer
    if stage == "fit" and trainer.max_steps < 1:
        raise UserError(
            f"trainer.max_steps={trainer.max_steps}, and learning rate and data are planned by step: "
            "set trainer.max_steps to the number of optimizer steps"
        )
    require_supported(trainer.strategy, module.config)
    require_options(module, type(trainer.strategy).__name__)
    data = trainer.datamodule
    require_readable(module.config, getattr(data, "vocab_size", None), getattr(data, "sequence_length", None))


def require_options(module: LightningModule, strategy: str) -> None:
    """Refuse options of a CausalLMModule that do not go with one another, its model or its strategy.

    Args:
        module: without a model or a trainer.
        strategy: name of the class of the Trainer's.

    Raises:
        UserError: any of it.
    """
    require_compilable(module.compilation, strategy, module.activation_checkpointing)
    if module.activation_checkpointing:
        require_recomputable(module.config)


def require_readable(config: PretrainedConfig, vocab_size: int | None, sequence_length: int | None) -> None:
    """Refuse data with more tokens or longer rows than the model has a place for; None is not known.

    Raises:
        UserError: either.
    """
    config = config.get_text_config()
    if vocab_size is not None and vocab_size > config.vocab_size:
        raise UserError(
            f"the data's vocabulary has {vocab_size} tokens, the model's {config.vocab_size}: "
            f"set the model's vocab_size to {vocab_size} or more"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and sequence_length is not None and sequence_length > positions:
        raise UserError(
            f"sequence_length={sequence_length} is longer than the model's {positions} positions: "
            "shorten it or raise max_position_embeddings"
        )
