from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from refine import RefineError, fit_loss, linear, read_losses
from refine.default import scheduled
from refine.families.base import with_warmup
from refine.loss_choice import COOLDOWNS, best_k, choose, horizon_of
from refine.loss_curve import LossCurve

from .test_prediction import STEPS, run

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def law():
    return fit_loss([run(), run(linear(STEPS, warmup_steps=100), seed=1)])


def test_a_free_form_finds_no_better_hold(law):
    k = best_k(law, STEPS, 100, 1e-3)
    best = law.final_loss(scheduled(STEPS, 100, k) * 1e-3)
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
