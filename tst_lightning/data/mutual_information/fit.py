"""The curve ``C0 + a * d^k`` through mutual information at distances ``d``."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tst_lightning.errors import UserError

MIN_DISTANCES = 8
"""For three parameters and an idea of their errors."""
NEAR_DISTANCES = 8
"""Where there is information between tokens at all, some is within so many."""
SIGNAL_TO_NOISE = 5.0
_START_EXPONENTS = (-0.25, -0.5, -1.0, -1.5, -2.0, -3.0, -5.0)


@dataclass(frozen=True)
class Fit:
    """Parameters in nats (``k`` without unit), each with the standard error that the scatter about the fit implies.

    Points of neighbouring distances deviate together where the curve is no power law, so the true errors are larger.
    """

    c0: float
    a: float
    k: float
    c0_error: float
    a_error: float
    k_error: float
    residual_rms: float
    """Root mean square deviation of the points from the fit, in nats."""

    def value(self, distance: np.ndarray) -> np.ndarray:
        """The fitted information in nats."""
        return power_law(distance, self.c0, self.a, self.k)


def power_law(distance: np.ndarray, c0: float, a: float, k: float) -> np.ndarray:
    """``C0 + a * d^k``."""
    return c0 + a * np.power(np.asarray(distance, float), k)


def fit_power_law(values: Sequence[float], independent: Sequence[float]) -> Fit:
    """Fit the points by weighted least squares.

    The weight of a point is ``1 / (d * value)``. An estimate's variance is proportional to the information where that
    is small (Poisson counts), so that all of the curve is fitted, and not its first points alone; and each octave of
    distances counts alike, since neighbouring distances say nearly the same and the last octave has half of them.

    Args:
        values: estimates in nats at the distances 1, 2, 3, ...
        independent: estimates of the same kind for tokens paired at random, at least two: what no information
            looks like.

    Raises:
        UserError: there are too few distances, no information, or none that falls off with the distance.
    """
    values, independent = np.asarray(values, float), np.asarray(independent, float)
    if len(values) < MIN_DISTANCES:
        raise UserError(f"{len(values)} distances are too few to fit three parameters: measure {MIN_DISTANCES} or more")
    nothing, noise = float(independent.mean()), float(independent.std(ddof=1))
    nearest = float(values[:NEAR_DISTANCES].max())
    if nearest - nothing <= SIGNAL_TO_NOISE * noise:
        raise UserError(
            f"there is nothing to fit: up to a distance of {NEAR_DISTANCES}, tokens share at most {nearest:.2g} nats, "
            f"and tokens paired at random {nothing:.2g} with a standard deviation of {noise:.2g}. Raise max_tokens if "
            "the corpus has more tokens; else tokens of this corpus say nothing about each other"
        )
    floor = max(abs(nothing), noise, 1e-12)
    found, errors = _least_squares(values, sigma=np.sqrt(np.arange(1, len(values) + 1) * np.maximum(values, floor)))
    c0, a, k = found.tolist()
    fall = a * (1 - float(len(values)) ** k)
    if not (a > 0 and k < 0 and fall > SIGNAL_TO_NOISE * noise and np.isfinite(errors).all()):
        raise UserError(
            f"the curve does not fall as C0 + a*d^k: {values[0]:.3g} nats at distance 1, {values[-1]:.3g} at "
            f"{len(values)}; the best fit is C0={c0:.3g}, a={a:.3g}, k={k:.3g}, with standard errors of "
            f"{', '.join(f'{each:.2g}' for each in errors)}. Choose other weights (power_law, uniform) for this corpus"
        )
    residuals = values - power_law(np.arange(1, len(values) + 1), c0, a, k)
    return Fit(c0, a, k, *errors.tolist(), residual_rms=float(np.sqrt(np.mean(residuals**2))))


def _least_squares(values: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C0, a, k and their standard errors; infinite where the points do not determine them."""
    from scipy.optimize import OptimizeWarning, curve_fit

    distances = np.arange(1.0, len(values) + 1)

    def linear(k: float) -> tuple[float, tuple[float, float, float]]:
        """Weighted sum of squares, and the parameters, of the best fit with this exponent."""
        a, c0 = np.polyfit(distances**k, values, 1, w=1 / sigma)
        return float((((values - power_law(distances, c0, a, k)) / sigma) ** 2).sum()), (c0, a, k)

    start = min(map(linear, _START_EXPONENTS))[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # its infinite errors say it
            found, covariance = curve_fit(power_law, distances, values, start, sigma, maxfev=20_000)
    except RuntimeError:  # no convergence
        return np.array(start), np.full(3, np.inf)
    with np.errstate(invalid="ignore"):
        return found, np.sqrt(np.diag(covariance))
