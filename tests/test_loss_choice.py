from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from refine import RefineError, fit_loss, linear, read_losses, wsd
from refine.families.base import with_warmup
from refine.loss_choice import COOLDOWNS, choose, held, hold, horizon_of
from refine.loss_curve import LossCurve
from refine.refinement import refined_multiplier

from .test_prediction import STEPS, run

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def law():
    return fit_loss([run(), run(linear(STEPS, warmup_steps=100), seed=1)])


def test_held_for_constant_weights_is_linear_decay_or_wsd():
    assert held(np.ones(100), 1.0) == pytest.approx(linear(100).multiplier)
    right = wsd(1000, cooldown_fraction=0.5).multiplier
    assert held(np.ones(1000), 2.0) == pytest.approx(right, abs=2e-3)
    assert held(np.ones(100), 0.5).max() == pytest.approx(0.5)
    assert held(np.ones(100), 2.0, 10)[:10] == pytest.approx(np.arange(1, 11) / 10)


def test_held_is_the_refined_schedule_of_its_weights_under_a_cap():
    weights = np.where(np.arange(200) < 120, 1.0, 3.0)
    refined = refined_multiplier(weights)
    assert held(weights, 1.0) == pytest.approx(refined)
    assert held(weights, 1.7) == pytest.approx(np.minimum(1.0, 1.7 * refined))


NOISES = {
    "flat": lambda x: np.ones_like(x),
    "up": lambda x: np.where(x < 0.5, 1.0, 2.2),
    "down": lambda x: np.where(x < 0.5, 2.2, 1.0),
    "up and down": lambda x: np.where((x > 0.3) & (x < 0.6), 2.2, 1.0),
}


def free_minimum(noise, beta, level, c=300.0, steps=200):
    """Least of A P^-1/2 + B J^beta over all rates in [0, 1], J the remembered noise; by projected quasi-Newton."""

    def value(eta):
        area = np.concatenate((np.cumsum(eta[::-1])[::-1], [0.0]))
        # Each update's share is the integral over its own stretch of area.
        shares = np.log1p(c * area[:-1]) - np.log1p(c * area[1:])
        noisy = float(np.sum(eta * noise * shares))
        return (area[0] / steps) ** -0.5 + level * noisy**beta

    def slope(eta):
        area = np.concatenate((np.cumsum(eta[::-1])[::-1], [0.0]))
        log = np.log1p(c * area)
        weighted = eta * noise
        noisy = float(np.sum(weighted * (log[:-1] - log[1:])))
        by_area = c / (1.0 + c * area)
        # d/d eta_j: its own factor, and the areas of all updates up to j.
        change = np.cumsum(weighted * by_area[:-1]) - np.concatenate(([0.0], np.cumsum(weighted[:-1] * by_area[1:-1])))
        grad = noise * (log[:-1] - log[1:]) + change
        return -0.5 * (area[0] / steps) ** -1.5 / steps + level * beta * noisy ** (beta - 1.0) * grad

    starts = [np.linspace(1.0, 0.02, steps), np.minimum(1.0, np.linspace(2.0, 0.02, steps))]
    bounds = [(1e-6, 1.0)] * steps
    found = [
        optimize.minimize(value, x, jac=slope, method="L-BFGS-B", bounds=bounds, options={"maxiter": 3000})
        for x in starts
    ]
    return value, min(each.fun for each in found)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("beta", [0.5, 0.8])
@pytest.mark.parametrize("level", [0.03, 0.15])
def test_held_is_near_the_free_minimum_under_a_cap(name, beta, level):
    noise = NOISES[name]((np.arange(200) + 0.5) / 200)
    value, least = free_minimum(noise, beta, level)
    closed = min(value(held(1.0 / noise, k)) for k in np.geomspace(0.2, 200.0, 300))
    assert least <= closed * (1.0 + 1e-9)
    assert closed <= least * 1.001


def test_a_free_form_finds_no_better_hold(law):
    k, multiplier = hold(law, STEPS, 1e-3)
    best = law.final_loss(multiplier * 1e-3)
    knots = np.linspace(0.0, 1.0, 13)
    at = (np.arange(STEPS) + 0.5) / STEPS

    def predicted(heights):
        return law.final_loss(with_warmup(np.interp(at, knots, np.clip(heights, 1e-4, 1.0)), 100) * 1e-3)

    starts = (np.minimum(1.0, k * (1.0 - knots)), 1.0 - knots, np.minimum(1.0, 3.0 * (1.0 - knots)))
    found = [
        optimize.minimize(
            predicted, x, method="L-BFGS-B", bounds=[(1e-4, 1.0)] * knots.size, options={"maxiter": 60}
        ).fun
        for x in starts
    ]
    assert min(found) > best - 0.0005


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared logs")
@pytest.mark.parametrize("peak", ["0.0005", "0.001"])
def test_the_hold_of_a_real_log_is_what_was_best(peak):
    law = fit_loss(read_losses(SHARED / "llm-runs" / "grad_norm" / f"cos0_lr{peak}_T50000.csv"))
    choice = choose(law, "hold")
    assert 0.3 < choice.facts["hold_fraction"] < 0.75  # WSD .4 and .6 were best of those that were run


def test_the_hold_in_words(law):
    choice = choose(law, "hold")
    assert choice.headline.startswith("hold the peak for ")
    assert choice.facts["k"] > 1.0
    assert "the peak is low for this horizon" in choice.advice[0]
    rows = choice.table.rows
    assert rows[0].prediction.final_loss == pytest.approx(choice.facts["final_loss"])
    assert {row.prediction.name for row in rows} >= {"linear", "wsd:0.2"}


def test_a_peak_that_is_too_high_is_told():
    noisy = run(linear(STEPS, warmup_steps=100))
    # Only noise: the loss follows the rate all the way down.
    losses = 2.0 + 0.5 * (noisy.rates[noisy.steps - 1] / 1e-3) ** 0.8 + 0.01 * (noisy.steps / STEPS) ** -0.4
    choice = choose(fit_loss(LossCurve.from_values(losses, noisy.steps, rates=noisy.rates)), "hold")
    assert choice.facts["k"] < 1.0
    assert choice.headline.startswith("the peak is too high: ")
    assert choice.table.rows[0].prediction.peak_lr < 1e-3


def test_the_cooldown_is_the_lowest_and_names_its_ties(law):
    choice = choose(law, "cooldown", total_steps=6_000)
    names = [row.prediction.name for row in choice.table.rows]
    assert sorted(names) == sorted(COOLDOWNS)
    assert choice.facts["schedule"] == names[0]
    assert set(choice.facts["ties"]) <= set(names[1:])
    assert names[0] in choice.headline
    assert {row.prediction.total_steps for row in choice.table.rows} == {6_000}


def test_the_peak_moves_by_octaves_with_advice(law):
    choice = choose(law, "peak")
    assert sorted(row.prediction.peak_lr for row in choice.table.rows) == pytest.approx(
        [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]
    )
    assert choice.table.reference == "linear at 0.001"
    assert "2 to 4 at most in one run, then fit again" in choice.advice[0]
    assert choice.facts["peak_lr"] == choice.table.rows[0].prediction.peak_lr


def test_the_horizon_that_reaches_a_loss(law):
    target = law.predict("linear", total_steps=7_000).final_loss
    updates, least, most = horizon_of(law, target)
    assert updates == pytest.approx(7_000, rel=2e-3)
    assert least < updates < most
    choice = choose(law, "horizon", target_loss=target)
    assert choice.facts["total_steps"] == updates
    assert f"takes {updates:,} updates" in choice.headline


def test_what_half_of_the_updates_cost(law):
    choice = choose(law, "horizon")
    half, whole = law.predict("linear", total_steps=STEPS // 2), law.predict("linear")
    assert choice.facts["half"] == pytest.approx(half.final_loss - whole.final_loss, rel=1e-3)
    assert choice.facts["half_low"] < choice.facts["half"] < choice.facts["half_high"]
    assert choice.headline.startswith("half of 4,000 updates costs +0.")


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("horizon", {"target_loss": 0.5}, "target_loss is 0.5, not reached in 64,000 updates by linear decay"),
        ("horizon", {"target_loss": 90.0}, "target_loss is 90, reached before 500 updates"),
        ("horizon", {"target_loss": -1.0}, "must be a positive number"),
        ("peak", {"target_loss": 2.0}, "it goes with the choice of a horizon"),
        ("shape", {}, "choose is 'shape'; it must be one of cooldown, peak, horizon, hold"),
        ("cooldown", {"total_steps": 0}, "total_steps is 0"),
    ],
)
def test_what_cannot_be_chosen_is_refused(law, what, options, message):
    with pytest.raises(RefineError, match=message):
        choose(law, what, **options)


def test_all_choices_are_words_and_json_values(law):
    import json

    for what in ("cooldown", "peak", "horizon", "hold"):
        choice = choose(law, what)
        assert json.loads(json.dumps(choice.to_dict()))["what"] == what
        lines = choice.summary().splitlines()
        assert lines[0].startswith("choice    ")
        assert any(line.startswith("bars      90 %") for line in lines)
