"""What may be begun anew when superposition ends: the optimizer's state, the weights next to the vocabulary.

The paper carries everything over; these are its ablation and patch-level training's choice. They change what is
there in place, so that the optimizer and a parallel strategy keep the parameters they know.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from tst_lightning.modeling.sharding import copy_whole, reshard

OnSwitch = Literal["carry", "reset_optimizer", "restart", "restart_schedule"]
Reinitialize = Literal["none", "embedding_and_head"]

REINITIALIZE_SEED_OFFSET = 1_000_000
"""Added to the module's ``init_seed``: the weights that begin anew are not those that the run, or one with a
neighbouring seed, began with. (Not 2**32: torch uses 32 bits of a seed.)"""


def reset_optimizer(optimizer: Optimizer) -> None:
    """Forget moments and step counts, as if the optimizer had just been built; its learning rate stays."""
    optimizer.state.clear()


@torch.no_grad()
def reinitialize_embedding_and_head(module: LightningModule, optimizers: Iterable[Optimizer]) -> None:
    """Give embedding and head the weights of a new model, and drop the optimizers' state of them; the body stays.

    Args:
        module: has ``init_seed``, ``new_model(seed)``, ``get_input_embeddings()`` and ``get_output_embeddings()``.
        optimizers: of the module.
    """
    reshard(module)  # or the new weights would go to the gathered ones, which the next backward pass drops
    new = module.new_model(module.init_seed + REINITIALIZE_SEED_OFFSET)
    pairs = (
        (module.get_input_embeddings(), new.get_input_embeddings()),
        (module.get_output_embeddings(), new.get_output_embeddings()),
    )
    for old, fresh in pairs:
        # A tied head is the embedding's parameter, here and there: the second copy changes nothing.
        for parameter, value in zip(old.parameters(), fresh.parameters(), strict=True):
            copy_whole(parameter, value)
            for optimizer in optimizers:
                optimizer.state.pop(parameter, None)
