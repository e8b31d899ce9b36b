"""Which optimizer trains which parameters: the paper's AdamW, or Muon for hidden matrices beside AdamW.

Muon replaces the momentum of a matrix by its nearest orthogonal matrix, approximately, by five Newton-Schulz
iterations. That suits weights that multiply activations, and no others: not lookup tables, not the head, not
vectors. So ``parameter_groups`` tells the kinds apart, and ``MuonWithAdamW`` gives each to its optimizer.

Jordan et al., https://kellerjordan.github.io/posts/muon; Liu et al., *Muon is Scalable for LLM Training*,
arXiv 2502.16982. The paper of Token-Superposition Training uses AdamW alone (section 4).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from tst_lightning.errors import UserError

HIDDEN_MATRICES = "hidden_matrices"
EMBEDDING_AND_HEAD = "embedding_and_head"
VECTORS = "vectors"
KINDS = (HIDDEN_MATRICES, EMBEDDING_AND_HEAD, VECTORS)
"""Values of the key ``kind`` of a parameter group."""


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters of a module in three groups, each in the module's order.

    - ``hidden_matrices``: what multiplies activations, ``(out, in)`` or ``(in, out)``, also of heads outside the
      language model; and stacks of such matrices, ``(experts, out, in)``.
    - ``embedding_and_head``: weights of embeddings (of positions too) and of the head, once if tied; kernels of
      convolutions.
    - ``vectors``: norms and biases, with ``weight_decay=0``.

    A group may be empty. An optimizer that does not know the key ``kind`` ignores it.

    Args:
        module: has ``get_input_embeddings()`` and ``get_output_embeddings()``, as CausalLMModule does.
    """
    tables = [part for part in module.modules() if isinstance(part, (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    tables += [part for part in (module.get_input_embeddings(), module.get_output_embeddings()) if part is not None]
    in_tables = {parameter for part in tables for parameter in part.parameters()}
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # A mixture of experts has a bias for each expert, in rows: still no matrix.
        if parameter.ndim < 2 or name.endswith("bias"):
            kind = VECTORS
        elif parameter in in_tables or parameter.ndim > 3:
            kind = EMBEDDING_AND_HEAD
        else:
            kind = HIDDEN_MATRICES
        groups[kind].append(parameter)
    options: dict[str, dict[str, Any]] = {VECTORS: {"weight_decay": 0.0}}
    return [{"params": groups[kind], "kind": kind, **options.get(kind, {})} for kind in KINDS]


def papers_adamw(groups: Iterable[dict[str, Any]]) -> Optimizer:
    """AdamW with the paper's betas and weight decay (section 4); the learning rate depends on the model's size."""
    return AdamW(groups, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)


def identity(optimizer: Optimizer) -> dict[str, Any]:
    """What has to be alike for a checkpoint's optimizer state to fit: the class, and the ``kind`` of each group."""
    return {"class": type(optimizer).__name__, "kinds": [group.get("kind") for group in optimizer.param_groups]}


def saved_identities(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``identity`` of a checkpoint's optimizers; without the class, if the release that wrote it kept none."""
    if "optimizers" in checkpoint:
        return checkpoint["optimizers"]
    states = checkpoint.get("optimizer_states", [])
    return [{"kinds": [group.get("kind") for group in state["param_groups"]]} for state in states]


def require_same_optimizers(saved: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer]) -> None:
    """Refuse to go on with the state of another optimizer, which torch would notice late or not at all.

    Args:
        saved: of ``saved_identities``; empty, if a run starts from none.
        optimizers: of the run.

    Raises:
        UserError: another class, or other kinds of groups.
    """
    current = [identity(optimizer) for optimizer in optimizers]
    alike = len(saved) == len(current) and all(now | before == now for before, now in zip(saved, current, strict=True))
    if saved and not alike:
        before, now = (", ".join(map(_described, identities)) for identities in (saved, current))
        raise UserError(
            f"the checkpoint was trained with {before}, this run has {now}, which cannot take over its state: resume "
            "with the same model.optimizer and the release that wrote the checkpoint; or export its weights, and start "
            "a new run from them with model.pretrained"
        )


def _described(identity: Mapping[str, Any]) -> str:
    kinds = [kind or "any parameters" for kind in identity["kinds"]]
    return f"{identity.get('class', 'an optimizer')} (groups: {', '.join(kinds)})"


class MuonWithAdamW(Optimizer):
    """One optimizer: ``torch.optim.Muon`` for hidden matrices, ``torch.optim.AdamW`` for all other parameters.

    The mathematics is torch's; parameter groups and state are this optimizer's own, so a scheduler scales each
    group's learning rate, and state is saved, loaded and cleared, as of any other. The state of a matrix is Muon's
    ``momentum_buffer``, of another parameter AdamW's.

    A stack of matrices, as the weights of a mixture's experts, is orthogonalised matrix by matrix. Weights that
    ``fully_shard`` has sharded are supported: Muon gathers a matrix to orthogonalise it.

    Args:
        params: parameter groups, each with a ``kind`` (see ``parameter_groups``).
        lr: learning rate of the hidden matrices.
        adamw_lr: learning rate of all else; by default ``lr``.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: decoupled, of both, times the learning rate; a group's own comes first.
        momentum: Muon's.
        nesterov: whether Muon looks one step ahead.
        ns_steps: Newton-Schulz iterations.
        adjust_lr_fn: how ``lr`` is scaled by a matrix' shape. ``match_rms_adamw``: ``0.2*sqrt(max(out, in))``, which
            makes updates as large as AdamW's, so that AdamW's rate and weight decay fit, and does not depend on
            whether a model keeps its weights as ``(out, in)`` or ``(in, out)``. ``original``:
            ``sqrt(max(1, out/in))``. ``spectral_unclamped``: ``sqrt(out/in)``.
        foreach: AdamW's; Muon has none.
        fused: AdamW's; Muon has none.

    Raises:
        UserError: a group without a known ``kind``, a hidden matrix that is none, or an option that torch refuses.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["match_rms_adamw", "original", "spectral_unclamped"] = "match_rms_adamw",
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        adamw = {"betas": tuple(betas), "eps": eps, "foreach": foreach, "fused": fused}
        adamw_lr = lr if adamw_lr is None else adamw_lr
        try:  # without parameters: groups come by ``add_param_group``
            self._muon = Muon([{"params": []}], lr=lr, weight_decay=weight_decay, **muon)
            self._adamw = AdamW([{"params": []}], lr=adamw_lr, weight_decay=weight_decay, **adamw)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"MuonWithAdamW: {error}") from error
        super().__init__(params, defaults={})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the options that it leaves out taken from the optimizer of its ``kind``.

        Raises:
            UserError: no known ``kind``, or a hidden matrix that is none.
        """
        kind = param_group.get("kind")
        if kind not in KINDS:
            raise UserError(
                f"MuonWithAdamW: a parameter group has kind={kind!r}, not one of {', '.join(KINDS)}: "
                "make the groups with tst_lightning.optimizers.parameter_groups(module)"
            )
        inner = self._muon if kind == HIDDEN_MATRICES else self._adamw
        super().add_param_group(inner.defaults | param_group)
        wrong = [tuple(p.shape) for p in self.param_groups[-1]["params"] if p.ndim not in (2, 3)]
        if kind == HIDDEN_MATRICES and wrong:
            raise UserError(
                f"MuonWithAdamW: hidden_matrices holds parameters of shapes {wrong}, which are neither matrices nor "
                "stacks of matrices: put them in another group"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; ``closure`` is called once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Linked anew at each step: loading a state dict replaces both the state and the groups.
        muon, adamw = self._muon, self._adamw
        adamw.state = self.state
        adamw.param_groups = [group for group in self.param_groups if group["kind"] != HIDDEN_MATRICES]
        adamw.step()
        muon.state = defaultdict(dict)
        muon.param_groups = [
            group | {"params": [matrix for parameter in group["params"] for matrix in self._matrices(parameter)]}
            for group in self.param_groups
            if group["kind"] == HIDDEN_MATRICES
        ]
        muon.step()
        # The views of stacks would keep gradients alive that ``zero_grad`` is to free.
        muon.state, muon.param_groups = defaultdict(dict), []
        return loss

    def _matrices(self, parameter: Tensor) -> list[Tensor]:
        """What Muon updates in place of a parameter: itself, or views of the matrices in it; and their state."""
        gradient = parameter.grad
        if gradient is None:
            return []
        state = self.state[parameter]
        if parameter.ndim == 2:
            self._muon.state[parameter] = state
            return [parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        # ``fully_shard`` splits along the first dimension: each process holds whole matrices of a stack.
        stacks = [stack.detach() for stack in (parameter, gradient, state["momentum_buffer"])]
        stacks = [stack.to_local() if hasattr(stack, "to_local") else stack for stack in stacks]
        matrices = []
        for matrix, slope, momentum in zip(*(stack.unbind() for stack in stacks), strict=True):
            matrix.grad = slope
            self._muon.state[matrix] = {"momentum_buffer": momentum}
            matrices.append(matrix)
        return matrices

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which need both optimizers too."""
        return super().__getstate__() | {"_muon": self._muon, "_adamw": self._adamw}
