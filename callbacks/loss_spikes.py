"""Whether a loss is out of order, by robust statistics of the losses before it."""

from collections import deque
from statistics import median
from typing import Any, NamedTuple

LEAST_STEPS = 50
"""A spread that is estimated from fewer losses raises false alarms."""
NORMAL_SPREAD = 1.4826
"""Standard deviation of normally distributed values, in median absolute deviations."""
LEAST_SPREAD_RATIO = 0.01
"""Of the median: a loss that hardly varies may rise by that much times the threshold."""


class Spike(NamedTuple):
    """A loss that is out of order, and what is usual."""

    loss: float
    median: float
    spread: float
    """Robust estimate of the standard deviation."""


class SpikeDetector:
    """Judges a loss by median and median absolute deviation of the losses of the same *regime* before it.

    Losses of different regimes (stages of a schedule) do not compare. The median lets no spike into what is usual, and
    a slow drift, which widens the spread as well, is none.

    Args:
        threshold: a spike exceeds the median by this many spreads; it is over at half of that.
        window_steps: losses that are remembered of each regime, at most.
    """

    def __init__(self, threshold: float, window_steps: int) -> None:
        self.threshold = threshold
        self.window_steps = window_steps
        self._windows: dict[str, deque[float]] = {}
        self._regime: str | None = None
        self._spiking = False

    def look(self, loss: float, regime: str | None) -> Spike | None:
        """Take the next loss; a spike is returned once, at its first step.

        Args:
            loss: of a step, finite.
            regime: None while losses of one step and the next do not compare.
        """
        if regime != self._regime:
            self._regime, self._spiking = regime, False
        if regime is None:
            self._windows.clear()
            return None
        window = self._windows.setdefault(regime, deque(maxlen=self.window_steps))
        spike = None
        if len(window) >= LEAST_STEPS:
            centre = median(window)
            spread = NORMAL_SPREAD * median(abs(value - centre) for value in window)
            spread = max(spread, LEAST_SPREAD_RATIO * abs(centre))
            excess = loss - centre
            if excess > self.threshold * spread and not self._spiking:
                self._spiking, spike = True, Spike(loss, centre, spread)
            elif excess < self.threshold / 2 * spread:
                self._spiking = False
        window.append(loss)
        return spike

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to warn of the same spikes."""
        windows = {regime: list(window) for regime, window in self._windows.items()}
        return {"windows": windows, "regime": self._regime, "spiking": self._spiking}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another detector was."""
        self._windows = {regime: deque(losses, self.window_steps) for regime, losses in state["windows"].items()}
        self._regime, self._spiking = state["regime"], state["spiking"]
