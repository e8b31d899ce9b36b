"""What ``tst-lightning mutual-information`` prints of its result."""

from pathlib import Path
from typing import Any

from tst_lightning.data.mutual_information.weights import fitted_bag_weights
from tst_lightning.errors import UserError

LARGEST_BAG = 16
"""In common use: up to here bias and misfit matter."""
SHOWN_BAG = 4
MISFIT = 1.5
"""A ratio of fit and measurement that is worth a note."""


def print_summary(record: dict[str, Any], path: Path) -> None:
    """A table over distances, the fit, weights, and what to know about them.

    Args:
        record: what ``mutual_information.json`` holds.
        path: of this file.
    """
    fit, independent, last = record["fit"], record["independent"], len(record["distances"])
    print(f"{record['tokens']:,} tokens of {record['data_dir']}; mutual information in nats\n")
    print(f"{'distance':>8}{'frequencies':>13}{'correction':>13}{'estimate':>13}{'fit':>13}")
    for d in sorted({2**n for n in range(last.bit_length())} | {last}):
        columns = (record[name][d - 1] for name in ("plugin", "correction", "value", "fitted"))
        print(f"{d:>8}" + "".join(f"{each:>13.6f}" for each in columns))
    paired = (independent["plugin_mean"], independent["mean"] - independent["plugin_mean"], independent["mean"])
    print(f"{'random':>8}" + "".join(f"{each:>13.6f}" for each in paired) + "   (tokens paired at random)\n")
    c0, a, k = (f"{fit[name]:.4g} ± {fit[f'{name}_error']:.1g}" for name in ("c0", "a", "k"))
    print(f"fit: C0 + a*d^k with C0 = {c0}, a = {a}, k = {k}")
    for note in [_weights(path), *_notes(record, min(last, LARGEST_BAG))]:
        print(note)
    print(f"\n{path}")


def _weights(path: Path) -> str:
    try:
        weights = fitted_bag_weights(path, SHOWN_BAG)
    except UserError as error:
        return f"note: {error}"
    return f"weights of a bag of {SHOWN_BAG}: " + ", ".join(f"{weight:.3f}" for weight in weights)


def _notes(record: dict[str, Any], far: int) -> list[str]:
    notes = []
    pairs = [(d, record["fitted"][d - 1], record["value"][d - 1]) for d in range(1, far + 1)]
    # The larger over the smaller; without end where one of them is not above zero.
    misfits = [(max(f / v, v / f) if min(f, v) > 0 else float("inf"), d) for d, f, v in pairs]
    misfit, worst = max(misfits)
    if misfit > MISFIT:
        notes.append(
            f"note: the curve is no power law up to distance {far}: at {worst} the estimate is "
            f"{record['value'][worst - 1]:.3g} and the fit {record['fitted'][worst - 1]:.3g}. Weights proportional to "
            "the estimates can be given as a list of numbers instead"
        )
    bias, value = record["independent"]["mean"], record["value"][far - 1]
    if bias > 0.1 * value:
        notes.append(
            f"note: of the {value:.3g} nats at distance {far}, up to {bias:.3g} may be bias, as between tokens paired "
            "at random; it makes the weights too equal. More text lowers it"
        )
    return notes
