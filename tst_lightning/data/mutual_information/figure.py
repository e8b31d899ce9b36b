"""The picture of measured mutual information and its fit."""

from collections.abc import Sequence

import numpy as np

from tst_lightning.data.mutual_information.fit import Fit
from tst_lightning.drawing import COLOURS, GREYS, STYLE, empty_figure, png


def information_figure(title: str, values: Sequence[float], fit: Fit, independent: float) -> bytes:
    """A PNG, both axes logarithmic; points that are not above zero are left out, and counted.

    Args:
        title: what was measured.
        values: nats at the distances 1, 2, 3, ...
        fit: through these.
        independent: nats that the estimator finds between tokens paired at random.
    """
    import matplotlib

    values = np.asarray(values, float)
    distances = np.arange(1, len(values) + 1)
    shown = values > 0
    hidden = len(values) - int(shown.sum())
    fine = np.geomspace(1, len(values), 400)
    curve = fit.value(fine)
    with matplotlib.rc_context(STYLE):
        figure, (panel,) = empty_figure(1, 1, (6.4, 4.4))
        label = "measured, bias corrected" + (f" ({hidden} not above zero)" if hidden else "")
        panel.plot(distances[shown], values[shown], "o", markersize=3.5, color=COLOURS[0], label=label)
        formula = f"fit: {fit.c0:.3g} + {fit.a:.3g} $d^{{{fit.k:.3g}}}$"
        panel.plot(fine[curve > 0], curve[curve > 0], "-", linewidth=1.8, color=COLOURS[1], label=formula)
        lowest = float(values[shown].min())
        # Far below all points it would only squeeze them.
        if independent > lowest / 20:
            panel.axhline(independent, linestyle="--", linewidth=1.2, color=GREYS[1], label="tokens paired at random")
            lowest = min(lowest, independent)
        panel.set(xscale="log", yscale="log", ylim=(lowest / 2, 2 * float(values.max())))
        panel.set(xlabel="distance d (tokens)", ylabel="mutual information (nats)", title=title.replace("$", r"\$"))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.legend()
        return png(figure)
