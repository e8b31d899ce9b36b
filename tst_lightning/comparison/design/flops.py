"""FLOPs that a configuration's steps cost, told from a model without weights."""

import importlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tst_lightning.errors import UserError


def planned_flops_per_position(config: Mapping[str, Any]) -> int:
    """Training FLOPs of one position in a run of a resolved configuration, as the run itself counts them.

    Raises:
        UserError: a model that starts from a checkpoint, whose shape the configuration does not say.
    """
    model = config["model"]
    if not model.get("config"):
        raise UserError(
            f"the FLOPs of model.pretrained={model.get('pretrained')!r} are not known before it is loaded: give "
            "trainer.max_steps instead of equal_flops_with"
        )
    return _counted(json.dumps(model, sort_keys=True, default=str), config["data"]["sequence_length"])


@lru_cache(maxsize=64)
def _counted(model: str, sequence_length: int) -> int:
    from tst_lightning.auxiliary.multi_token import MultiToken
    from tst_lightning.modeling.outlined import Outlined

    options = json.loads(model)
    module, _, name = options["config"]["class_path"].rpartition(".")
    # LightningCLI keeps what a class takes as **kwargs apart.
    values = (options["config"].get(key) or {} for key in ("init_args", "dict_kwargs"))
    config = getattr(importlib.import_module(module), name)(**{key: v for part in values for key, v in part.items()})
    heads = MultiToken(**options["multi_token"]) if options.get("multi_token") else None
    return Outlined(config, heads).flops_per_position(sequence_length)
