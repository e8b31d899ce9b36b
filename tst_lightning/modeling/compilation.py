"""torch.compile for the decoder layers of a Hugging Face model, in the steps of training and nowhere else.

What is compiled, and why not more:

- Each decoder layer by itself. Layers that are alike share one graph, so it takes as long as compiling one layer.
  The rest of the body stays as it is: traced, transformers cannot tell that a row is one document, and gives
  attention a mask where the flash kernels want none.
- Layers see ``(B, L, d)``. The embedding and its averaging of bags lie before them, so a switch of bag size compiles
  nothing; one that changes the rows or their length (patch-level training, sequence-length curricula) compiles its
  shape, once. Sizes are constants in the graphs, because a run has few.
- Outside ``CompiledLayers.training`` the model is as transformers made it: validation, evaluation and generation have
  shapes of their own, and parameter names, checkpoints and exports are those of an ordinary run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import transformers
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tst_lightning.errors import UserError
from tst_lightning.schedule import Schedule

Compilation = Literal["none", "lazy", "ahead"]
BACKEND = "inductor"


def require_compilable(compilation: str, strategy: str, recomputes: bool = False) -> None:
    """Refuse an option that does not exist, and what compiled layers do not work with.

    Args:
        compilation: the option.
        strategy: name of the class of the Trainer's.
        recomputes: whether the layers recompute their activations.

    Raises:
        UserError: no such option; ``ModelParallelStrategy``; a release of transformers that recomputes more than what
            is compiled.
    """
    if compilation not in get_args(Compilation):
        raise UserError(f"compilation={compilation!r}: choose {', '.join(get_args(Compilation))}")
    if compilation != "none" and strategy == "ModelParallelStrategy":
        raise UserError(
            f"compilation={compilation} is not supported with ModelParallelStrategy, which gathers a layer's weights "
            "by hooks around it: set compilation to none, or use one device or DDP"
        )
    if compilation != "none" and recomputes and GradientCheckpointingLayer.__call__ is not nn.Module.__call__:
        # As 5.0 to 5.22 do it. The backward pass is outside of ``training`` and would run the layers uncompiled, which
        # keep other tensors than the compiled ones have kept.
        raise UserError(
            f"compilation={compilation} does not go with activation_checkpointing=true in transformers "
            f"{transformers.__version__}, which recomputes a layer from outside of its compiled call: install 5.23 or "
            "later, or set one of them to none or false"
        )


class CompiledLayers:
    """The decoder layers of a model, compiled while ``training`` and ordinary otherwise.

    Args:
        model: a Hugging Face causal LM; ``_no_split_modules`` names the classes of its layers.

    Raises:
        UserError: the model does not say what its layers are.
    """

    def __init__(self, model: nn.Module) -> None:
        names = set(model._no_split_modules or ())
        self.layers = [part for part in model.modules() if type(part).__name__ in names]
        if not self.layers:
            raise UserError(
                f"compilation needs to know the model's layers, and {type(model).__name__} does not name their class "
                "(_no_split_modules): set compilation to none"
            )
        self._compiled: list[Any] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within the block the layers run compiled; a graph is made when a shape first comes by.

        Raises:
            UserError: torch cannot compile them on this machine.
        """
        from torch._dynamo import config
        from torch._dynamo.exc import BackendCompilerFailed

        # Layers that recompute their activations (activation_checkpointing) are not compiled otherwise, without a word,
        # where transformers' hooks collect router logits in them: those are collected once, in the forward pass.
        # A private option of torch's, which another release need not have: set only where it is needed.
        recomputes = any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers)
        options = {"skip_fwd_side_effects_in_bwd_under_checkpoint": True} if recomputes else {}
        if not self._compiled:
            self._compile()
        try:
            for layer, compiled in zip(self.layers, self._compiled, strict=True):
                layer._compiled_call_impl = compiled
            with config.patch(options):
                yield
        except BackendCompilerFailed as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())[:300]
            raise UserError(
                f"torch.compile fails here ({reason}): it needs a C++ compiler (such as g++) and, on a GPU, Triton; "
                "install them, or set compilation to none"
            ) from error
        finally:
            for layer in self.layers:
                layer._compiled_call_impl = None

    def allow_shapes(self, shapes: int) -> None:
        """Make room for the graphs of ``shapes`` shapes: after 8 graphs, torch goes on without compiling.

        All layers are one function to it, and those that are not alike need a graph each.
        """
        from torch._dynamo import config

        variants = 2  # with and without documents to keep apart
        config.recompile_limit = max(config.recompile_limit, variants * shapes * len(self.layers))
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, config.recompile_limit)

    def _compile(self) -> None:
        """``nn.Module.compile`` sets the attribute that ``__call__`` asks for; it is kept here instead."""
        for layer in self.layers:
            layer.compile(backend=BACKEND, dynamic=False)
            self._compiled.append(layer._compiled_call_impl)
            layer._compiled_call_impl = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what is compiled stays behind, as torch does it."""
        return self.__dict__ | {"_compiled": []}


def compiled_layers(module: Any) -> CompiledLayers | None:
    """The layers that training steps of a CausalLMModule run compiled, if any: for ``on_fit_start``.

    With ``module.compilation="ahead"`` every graph that the schedule needs is made here, otherwise each when it is
    first needed.

    Raises:
        UserError: they cannot be compiled.
    """
    if module.compilation == "none":
        return None
    data = module.trainer.datamodule
    layers = CompiledLayers(module.model)
    shapes = batch_shapes(getattr(data, "schedule", Schedule()), data.batch_size, data.sequence_length)
    layers.allow_shapes(len(shapes))
    if module.compilation == "ahead":
        _compile_ahead(module, layers, shapes, getattr(data, "isolate_documents", False))
    return layers


def batch_shapes(schedule: Schedule, rows: int, sequence_length: int) -> list[tuple[int, int]]:
    """``(rows, positions)`` of the micro-batches of each stage, each shape once, in order.

    Args:
        schedule: of the run.
        rows: of a micro-batch on this device, of a stage that changes nothing.
        sequence_length: of those rows.
    """
    lengths = [(stage, stage.sequence_length or sequence_length) for stage in schedule.stages]
    shapes = ((rows // stage.row_divisor * (sequence_length // length), length) for stage, length in lengths)
    return list(dict.fromkeys(shapes))


def _compile_ahead(module: Any, layers: CompiledLayers, shapes: list[tuple[int, int]], isolated: bool) -> None:
    """Go forward and back on a made-up batch of each shape; leave weights, gradients, buffers and random numbers alone.

    If documents are kept apart (``isolated``), there are two kinds of batches: one without a second document in any
    row needs no mask.
    """
    kinds: tuple[int | None, ...] = (1, 2) if isolated else (None,)
    before = [(buffer, buffer.clone()) for buffer in module.model.buffers()]
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    precision = module.trainer.precision_plugin
    with isolate_rng(), torch.enable_grad(), layers.training():
        for rows, length in shapes:
            rank_zero_info(f"Compiling the layers for batches of {rows} rows of {length} positions")
            for documents in kinds:
                positions = documents and _positions(rows, length, documents, module.device)
                ids = torch.zeros(rows, length, 1, dtype=torch.int32, device=module.device)
                with precision.forward_context():
                    loss, auxiliary = module(ids, ids, module.next_token_loss, positions)
                # Not `backward`, which would leave gradients and set off what waits for them.
                torch.autograd.grad(sum(auxiliary.values(), loss), parameters, allow_unused=True)
    with torch.no_grad():
        for buffer, content in before:
            buffer.copy_(content)


def _positions(rows: int, length: int, documents: int, device: torch.device) -> Tensor:
    """Positions ``(B, L)`` of rows that hold this many documents each."""
    of_document = -(-length // documents)
    return (torch.arange(length, dtype=torch.int32, device=device) % of_document).repeat(rows, 1)
