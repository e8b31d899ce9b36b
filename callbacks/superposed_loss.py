"""What the options of superposition make of the loss: how much each token of a target bag counts, and in which loss."""

from collections.abc import Callable
from typing import Literal

from tst_lightning.bags import WeightKind, bag_weights
from tst_lightning.errors import UserError
from tst_lightning.losses import MultiHotCrossEntropy, TargetLoss
from tst_lightning.stages import SuperpositionStages

LossKind = Literal["multi_hot", "mce_alt", "hinge", "binary_cross_entropy"]


def require_weights_in_use(
    sizes: tuple[int, ...],
    loss: LossKind,
    weights: WeightKind | list[float],
    weights_file: str | None,
    interpolate: float,
    superpose_outputs: bool,
) -> None:
    """Refuse options of the target weights that would have no effect; ``SuperpositionCallback`` explains them.

    With bags of one token none of them has any, and all are accepted: that is the baseline.

    Raises:
        UserError: a loss or a target without weights, and an option that sets some; a share out of range.
    """
    if not 0 <= interpolate <= 1:
        raise UserError(f"interpolate={interpolate}: give a share of the superposed steps, from 0 to 1")
    kinds_without_effect = ("uniform", "first_token")
    if loss == "mce_alt" and (interpolate or weights_file or weights not in kinds_without_effect):
        raise UserError(
            "loss=mce_alt sums the probabilities of a bag's tokens and knows no weights: leave out interpolate, "
            "weights_file and weights, or choose another loss"
        )
    if weights_file is not None and (weights != "uniform" or not superpose_outputs):
        raise UserError(
            f"weights_file='{weights_file}' goes neither with weights={weights!r} nor with "
            "superpose_outputs=false: leave one of them out"
        )
    if max(sizes) == 1:
        return
    if not superpose_outputs and weights not in kinds_without_effect:
        raise UserError(
            f"weights={weights!r} with superpose_outputs=false: the only target is the bag's first token, which "
            "leaves nothing to weigh; leave out weights"
        )
    if interpolate and (not superpose_outputs or weights == "first_token"):
        cause = "superpose_outputs=false" if not superpose_outputs else "weights=first_token"
        raise UserError(
            f"interpolate={interpolate} with {cause}: the only target is the bag's first token from the start, which "
            "leaves nothing to move to; leave out interpolate"
        )


def weights_by_bag_size(
    stages: SuperpositionStages, weights: WeightKind | list[float], weights_file: str | None, superpose_outputs: bool
) -> dict[int, tuple[float, ...]]:
    """Weights of the tokens of a target bag, summing to 1, by bag size.

    Raises:
        UserError: numbers for several bag sizes, or of another count; a file that does not serve.
    """
    sizes = sorted(set(stages.sizes))
    if weights_file is not None:
        from tst_lightning.data.mutual_information.weights import fitted_bag_weights

        return {size: fitted_bag_weights(weights_file, size) for size in sizes}
    if not isinstance(weights, str) and superpose_outputs:
        if len(sizes) > 2 or (len(sizes) == 2 and sizes[0] != 1):
            raise UserError(
                f"weights={list(weights)} are for one bag size, and bag_sizes={list(stages.sizes)} has several: name a "
                "kind, such as power_law"
            )
        return {1: (1.0,)} | {sizes[-1]: bag_weights(weights, sizes[-1])}
    return {size: bag_weights(weights if superpose_outputs else "first_token", size) for size in sizes}


def superposed_loss(
    kind: LossKind, weights: tuple[float, ...], sliding: bool, next_token_share: float, next_token_loss: Callable
) -> TargetLoss:
    """The loss of a superposed step.

    Args:
        kind: which loss.
        weights: of the tokens of a target bag.
        sliding: whether targets are the next ``s`` tokens of each single token (output-only superposition).
        next_token_share: how far the weights have moved to the first token alone, 0 to 1.
        next_token_loss: of the recovery, whose implementation is used too if it is this project's.
    """
    options = {"weights": weights, "sliding": sliding, "next_token_share": next_token_share}
    if kind != "multi_hot":
        from tst_lightning.ablation_losses import AblationLoss

        return AblationLoss(kind=kind, **options)
    impl = next_token_loss.impl if isinstance(next_token_loss, MultiHotCrossEntropy) else "chunked"
    return MultiHotCrossEntropy(impl=impl, **options)
