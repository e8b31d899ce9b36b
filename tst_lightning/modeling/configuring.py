"""Where a CausalLMModule gets its model: whole, or shard by shard in processes that never hold all of it."""

from contextlib import nullcontext

from lightning.pytorch import LightningModule

from tst_lightning.auxiliary.losses import AuxiliaryLosses
from tst_lightning.modeling.activation_checkpointing import recompute_layers
from tst_lightning.modeling.building import new_model, pretrained_model
from tst_lightning.modeling.initial_weights import outline
from tst_lightning.modeling.pretrained_weights import fill_shards_from
from tst_lightning.modeling.sharding import fill_shards, is_sharded, shard


def configure(module: LightningModule) -> None:
    """Give ``module`` its ``model`` and ``auxiliary_losses`` if it has none, and shard them if its strategy does.

    It is sharded before it has any weights, and filled a layer or a parameter at a time.

    Args:
        module: has ``config``, ``pretrained``, ``init_seed``, ``multi_token``, ``activation_checkpointing`` and, once
            built, ``model``.

    Raises:
        UserError: multi-token prediction with a model that does more to its logits than multiply by the head; see also
            ``pretrained_model``.
    """
    mesh, seed, start = module.device_mesh, module.init_seed, module.pretrained
    by_shards = module.model is None and mesh is not None
    # Lightning makes other strategies' models on their device; numbers drawn there are others than a CPU's.
    with module.trainer.strategy.root_device if by_shards else nullcontext():
        if module.model is None:
            if by_shards:
                module.model = outline(module.config)
            else:
                module.model = new_model(module.config, seed) if start is None else pretrained_model(start, seed)
            module.auxiliary_losses = AuxiliaryLosses(module.model, module.multi_token, seed)
            module.model.train()
        if module.activation_checkpointing:
            recompute_layers(module.model)
        if mesh is not None and not is_sharded(module):
            shard(module, module.model, mesh)
            if by_shards and start is None:
                fill_shards(module, module.model, module.config, seed)
            elif by_shards:
                fill_shards_from(start, module, module.model, seed)
