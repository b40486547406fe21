from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize

from refine.families import cosine, linear, wsd
from refine.loss_fit import Points, fit_points, non_negative
from refine.loss_laws import LAWS, View, cut

TRUE = {"alpha": 0.5, "p": 1.0, "c": 40.0, "s": 0.2, "delta": 0.05}
SCHEDULES = {
    "linear": linear(8_000, warmup_steps=200),
    "cosine": cosine(8_000, warmup_steps=200),
    "wsd": wsd(8_000, cooldown_fraction=0.3, warmup_steps=200),
}


def curve(
    name="linear", noise=0.0, peak=1e-3, seed=0, count=60, law="memory", exponents=TRUE, coefficients=(2.0, 0.3, 0.2)
):
    rates = SCHEDULES[name].multiplier * peak
    at = np.linspace(1_500.0, 8_000.0, count).round()
    view = View.of(cut(rates, 1e-3, at), at)
    progress = view.progress(exponents["p"], 8_000.0) ** -exponents["alpha"]
    losses = coefficients[0] + coefficients[1] * progress + coefficients[2] * LAWS[law].term(view, exponents, 8_000.0)
    losses = losses * np.exp(noise * np.random.default_rng(seed).standard_normal(count))
    return Points(rates, at, losses, np.full(count, 0.002))


def end(fit, schedule, peak=1e-3):
    rates = schedule.multiplier * peak
    return float(fit.losses(fit.view(rates, np.array([float(rates.size)])))[0])


def test_a_law_fits_its_own_losses_and_predicts_others():
    fit = fit_points([curve("cosine"), curve("wsd")], LAWS["memory"])
    assert np.abs(fit.residuals).max() < 3e-4
    assert end(fit, SCHEDULES["linear"]) == pytest.approx(curve("linear").losses[-1], rel=1e-3)


def test_wide_priors_find_the_exponents_back():
    wide = replace(
        LAWS["memory"], exponents=tuple(replace(e, sd=30.0 * max(e.sd, 0.01)) for e in LAWS["memory"].exponents)
    )
    curves = [curve(name, count=80) for name in SCHEDULES]
    fit = fit_points([replace(c, sigma=np.full(80, 1e-6)) for c in curves], wide)
    assert fit.exponents == pytest.approx(TRUE, rel=0.03, abs=0.01)
    assert fit.coefficients == pytest.approx([2.0, 0.3, 0.2], rel=0.05)


@pytest.mark.parametrize("law", ["memory", "memory-power", "bound-power", "general", "annealing"])
def test_the_search_ends_where_scipy_ends(law):
    curves = [curve("cosine", noise=0.001), curve("wsd", noise=0.001, seed=1)]
    fit = fit_points(curves, LAWS[law])
    free = [i for i, e in enumerate(LAWS[law].exponents) if e.sd > 0.0]
    weights = fit.weights * np.concatenate([np.sqrt(c.share) / c.sigma for c in curves])
    losses = np.concatenate([c.losses for c in curves])

    def residual(point):
        z = np.zeros(fit.z.size)
        z[free] = point[3:]
        moved = replace(fit, z=z, coefficients=np.exp(point[:3]))
        fitted = np.concatenate([moved.losses(view) for view in fit.views])
        return np.concatenate((weights * np.log(fitted / losses), z))

    start = np.concatenate((np.log(np.maximum(fit.coefficients, 1e-12)), fit.z[free]))
    ours = float(np.sum(residual(start) ** 2))
    theirs = optimize.least_squares(residual, start + 0.05, x_scale="jac", max_nfev=2_000, xtol=1e-12, ftol=1e-12)
    assert ours <= 2.0 * theirs.cost * (1.0 + 1e-3) + 1e-6


def test_a_fit_is_deterministic():
    first, second = (fit_points([curve(noise=0.002)], LAWS["memory"]) for _ in range(2))
    assert np.array_equal(first.z, second.z)
    assert np.array_equal(first.coefficients, second.coefficients)


def test_spikes_hardly_move_a_fit():
    clean = curve("cosine", noise=0.0005)
    spiked = clean.losses.copy()
    spiked[[10, 31]] *= 1.5
    fits = [fit_points([replace(clean, losses=losses)], LAWS["memory"]) for losses in (clean.losses, spiked)]
    assert end(fits[1], SCHEDULES["linear"]) == pytest.approx(end(fits[0], SCHEDULES["linear"]), rel=3e-3)
    assert fits[1].weights[[10, 31]].max() < 0.2


def test_two_runs_at_two_peaks_share_their_reference():
    fit = fit_points([curve("cosine"), curve("wsd", peak=5e-4)], LAWS["memory"])
    assert fit.reference == 1e-3
    assert end(fit, SCHEDULES["linear"], 5e-4) == pytest.approx(curve("linear", peak=5e-4).losses[-1], rel=4e-3)


def test_coefficients_are_not_negative():
    rising = curve("cosine", coefficients=(3.0, 0.3, 0.0))
    fit = fit_points([replace(rising, losses=rising.losses[::-1].copy())], LAWS["memory"])
    assert fit.coefficients.min() >= 0.0


@pytest.mark.parametrize("seed", range(20))
def test_non_negative_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    columns, target = rng.standard_normal((12, 3)), rng.standard_normal(12)
    assert non_negative(columns, target) == pytest.approx(optimize.nnls(columns, target)[0], abs=1e-10)


def test_non_negative_of_columns_that_are_alike_or_zero():
    ones = np.ones((5, 1))
    found = non_negative(np.hstack([ones, ones, 0.0 * ones]), np.full(5, 2.0))
    assert found.min() >= 0.0
    assert found.sum() == pytest.approx(2.0)


def test_the_covariance_is_that_of_least_squares_where_exponents_are_known():
    fixed = replace(LAWS["memory"], exponents=tuple(replace(e, sd=0.0) for e in LAWS["memory"].exponents))
    points = curve("cosine", noise=0.001, count=20)
    fit = fit_points([points], fixed)
    [view] = fit.views
    x = {e.name: e.value(0.0) for e in fixed.exponents}
    columns = np.stack(
        [np.ones(20), view.progress(x["p"], 8_000.0) ** -x["alpha"], fixed.term(view, x, 8_000.0)], axis=1
    )
    rows = columns * (fit.weights / (columns @ fit.coefficients) / 0.002)[:, None]
    assert fit.covariance[:3, :3] == pytest.approx(np.linalg.inv(rows.T @ rows), rel=1e-6)


def test_the_gradient_is_the_slope_of_the_losses():
    fit = fit_points([curve("wsd", noise=0.001)], LAWS["memory"])
    view = fit.view(SCHEDULES["linear"].multiplier * 1e-3, np.array([4_000.0, 8_000.0]))
    gradient = fit.gradient(view)
    for i in range(3):
        moved = fit.coefficients + 1e-6 * np.eye(3)[i]
        assert (replace(fit, coefficients=moved).losses(view) - fit.losses(view)) / 1e-6 == pytest.approx(
            gradient[:, i], rel=1e-5
        )
    for i in range(fit.z.size):
        moved = [replace(fit, z=fit.z + step * np.eye(fit.z.size)[i]).losses(view) for step in (1e-4, -1e-4)]
        assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(gradient[:, 3 + i], rel=1e-2, abs=1e-6)
