"""The fit of ``C0 + a*d^k``: known parameters come back, and curves without one are refused."""

import numpy as np
import pytest

from tst_lightning.data.mutual_information.fit import fit_power_law, power_law
from tst_lightning.errors import UserError

DISTANCES = np.arange(1, 257)
PAPER = (3.63, 1.35, -1.25)
"""C0, a and k on DCLM, arXiv 2605.06546."""
NOTHING = np.random.default_rng(9).normal(0, 1e-6, 16)


@pytest.mark.parametrize("parameters", [PAPER, (0.0, 0.7, -1.9), (-0.01, 0.5, -0.4), (1e-5, 2e-3, -3.5)])
def test_exact_curves_give_their_parameters(parameters):
    fit = fit_power_law(power_law(DISTANCES, *parameters), NOTHING)
    np.testing.assert_allclose((fit.c0, fit.a, fit.k), parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.value(DISTANCES), power_law(DISTANCES, *parameters), rtol=1e-3, atol=1e-7)
    assert fit.residual_rms < 1e-5


def test_standard_errors_cover_the_parameters():
    # Scatter as of counts, and alike in each octave: what the weights are made for.
    exact = power_law(DISTANCES, *PAPER)
    scatter = 2e-4 * np.sqrt(DISTANCES * exact)
    deviations = []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(0, scatter)
        fit = fit_power_law(exact + noise, NOTHING)
        errors = fit.c0_error, fit.a_error, fit.k_error
        deviations.append((np.array([fit.c0, fit.a, fit.k]) - PAPER) / errors)
        assert fit.residual_rms == pytest.approx(np.sqrt(np.mean(noise**2)), rel=0.2)
    assert np.sqrt(np.mean(np.square(deviations), axis=0)) == pytest.approx([1, 1, 1], rel=0.3)


def test_bias_of_all_points_goes_into_the_constant():
    fit = fit_power_law(power_law(DISTANCES, 1.63, *PAPER[1:]) + 2, NOTHING + 2)
    assert (fit.c0, fit.a, fit.k) == pytest.approx(PAPER, rel=1e-4)


REFUSED = {
    "noise": (np.random.default_rng(0).normal(0, 1e-6, 256), NOTHING, "nothing to fit"),
    "as biased as random pairs": (np.full(256, 1.6), NOTHING + 1.6, "nothing to fit"),
    "flat": (np.full(256, 0.1), NOTHING, "does not fall"),
    "rising": (0.2 - 0.1 / DISTANCES, NOTHING, "does not fall"),
    "rising without end": (1e-3 * DISTANCES, NOTHING, "does not fall"),
    "flat, with noise": (0.1 + np.random.default_rng(1).normal(0, 1e-7, 256), NOTHING, "does not fall"),
    "too few": (power_law(DISTANCES[:7], *PAPER), NOTHING, "too few"),
}


@pytest.mark.parametrize(("values", "independent", "message"), REFUSED.values(), ids=REFUSED)
def test_curves_without_a_fit_are_refused(values, independent, message):
    with pytest.raises(UserError, match=message):
        fit_power_law(values, independent)
