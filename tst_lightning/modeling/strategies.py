"""Which of Lightning's strategies train the same thing as one device, and which are refused, each with its reason."""

import os
from typing import Any

from tst_lightning.errors import UserError

REMEDY = "use ddp (configs/trainer/ddp.yaml), or ModelParallelStrategy for shares of the weights (fsdp2.yaml)"

REFUSED = {
    "FSDPStrategy": "FSDP1 makes every weight a vector, which hides the matrices from weight decay and from Muon",
    "DeepSpeedStrategy": "it flattens weights, and from stage 3 on the loss would read a share of the head",
}
"""Why, by the name of the class: Lightning's optional strategies cannot be imported everywhere."""


def tensor_parallel_size(strategy: Any) -> int:
    """Devices that compute a row together; 1 of strategies without a tensor dimension."""
    mesh = getattr(strategy, "device_mesh", None)
    return 1 if mesh is None else mesh["tensor_parallel"].size()


def require_supported(strategy: Any, config: Any = None) -> None:
    """Refuse strategies that would train another thing, before a model is built.

    Args:
        strategy: of the Trainer.
        config: the model's, of Hugging Face.

    Raises:
        UserError: a strategy in ``REFUSED``, or tensor parallelism with a model that cannot be split.
    """
    name = type(strategy).__name__
    if name in REFUSED:
        raise UserError(f"strategy {name} is not supported ({REFUSED[name]}): {REMEDY}")
    size = tensor_parallel_size(strategy)
    if size > 1 and config is not None:
        from tst_lightning.modeling.tensor_parallel import require_splittable

        require_splittable(config, size)


def require_mesh(trainer: Any) -> None:
    """Refuse ``ModelParallelStrategy`` with sizes that do not make up the processes, before any is started.

    Args:
        trainer: built, and not running yet.

    Raises:
        UserError: their product is another number.
    """
    strategy = trainer.strategy
    if type(strategy).__name__ != "ModelParallelStrategy":
        return
    # Lightning keeps them to itself until the processes have met, and then ends with a traceback in each.
    try:
        data, tensor = strategy._data_parallel_size, strategy._tensor_parallel_size
    except AttributeError:  # a release that names them otherwise: what remains is Lightning's own check
        return
    data = trainer.num_nodes if data == "auto" else data
    tensor = trainer.num_devices if tensor == "auto" else tensor
    processes = trainer.num_devices * trainer.num_nodes
    if data * tensor != processes:
        raise UserError(
            f"data_parallel_size={data} * tensor_parallel_size={tensor} is {data * tensor}, and devices="
            f"{trainer.num_devices} * num_nodes={trainer.num_nodes} is {processes}: for shares of the weights on all "
            f"devices set data_parallel_size to {processes} and tensor_parallel_size to 1"
        )


def require_launched(trainer: Any) -> None:
    """Refuse several machines without anything that starts processes on them: the first would wait without a word.

    Args:
        trainer: built, and not running yet.

    Raises:
        UserError: neither Slurm nor torchrun has started this process, nor is there a MASTER_ADDR.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    environment = trainer.strategy.cluster_environment if trainer.num_nodes > 1 else None
    if isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"num_nodes={trainer.num_nodes}, and this process was started by neither srun nor torchrun, nor does "
            "MASTER_ADDR say where the first machine is: see docs/multinode/, or set num_nodes to 1"
        )


def number_by_module(checkpoint: dict[str, Any], module: Any) -> None:
    """Number the parameters in a checkpoint's optimizer states as in ``module``: any strategy can then go on from it.

    Torch numbers parameters in the order of the optimizer's groups and, loading, goes by their places in the groups
    alone. ``ModelParallelStrategy`` writes and reads numbers in the order of the module.

    Args:
        checkpoint: about to be saved; changed in place.
        module: the LightningModule.
    """
    if module.device_mesh is not None or "optimizer_states" not in checkpoint:  # so already; or weights alone
        return
    numbers = {parameter: number for number, parameter in enumerate(module.parameters())}
    for state, optimizer in zip(checkpoint["optimizer_states"], module.trainer.optimizers, strict=True):
        before = [number for group in state["param_groups"] for number in group["params"]]
        after = [numbers[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        new = dict(zip(before, after, strict=True))
        state["state"] = {new[number]: values for number, values in state["state"].items()}
        state["param_groups"] = [
            group | {"params": [new[number] for number in group["params"]]} for group in state["param_groups"]
        ]
