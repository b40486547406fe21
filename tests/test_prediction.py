import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from scipy.stats import norm

from refine import RefineError, Schedule, from_name, linear
from refine.families import constant, cosine, wsd
from refine.loss_curve import LossCurve
from refine.loss_laws import LAWS, View, cut
from refine.loss_limits import WIDER
from refine.prediction import BURN_IN, calibration, fit_loss, points_of

STEPS = 4_000


def run(schedule=None, *, peak=1e-3, noise=0.0005, every=40, seed=0, upto=None, **more):
    """Losses by another law than the one that is fitted, with scatter."""
    schedule = schedule or wsd(STEPS, cooldown_fraction=0.3, warmup_steps=100)
    rates = schedule.multiplier * peak
    at = np.arange(every, (upto or rates.size) + 1, every)
    view = View.of(cut(rates, 1e-3, at.astype(float)), at.astype(float))
    noisy = LAWS["memory-power"].term(view, {"c": 200.0, "beta": 0.6}, STEPS)
    losses = 2.0 + 0.3 * view.progress(0.95, STEPS) ** -0.48 + 0.06 * noisy
    losses = losses * np.exp(noise * np.random.default_rng(seed).standard_normal(at.size))
    return LossCurve.from_values(losses, at, rates=rates, total_steps=rates.size, **more)


@pytest.fixture(scope="module")
def law():
    return fit_loss(run())


@pytest.fixture(scope="module")
def short_law():
    """Of a run that anneals over its last twentieth."""
    return fit_loss(run(wsd(STEPS, cooldown_fraction=0.05, warmup_steps=100)))


def test_a_prediction_says_what_it_is_of(law):
    found = law.predict("linear", total_steps=6_000, peak_lr=2e-3)
    assert (found.name, found.total_steps, found.peak_lr) == ("linear", 6_000, 2e-3)
    assert found.low < found.final_loss < found.high
    assert found.bar == pytest.approx(found.high - found.final_loss)
    assert found.steps[-1] == 6_000
    assert found.losses[-1] == found.final_loss
    assert np.all(found.lower < found.losses)
    assert np.all(found.upper > found.losses)
    assert found.schedule.multiplier[:3] == pytest.approx([0.01, 0.02, 0.03], rel=1e-6)  # the warmup of the run


def test_the_curve_at_any_steps(law):
    found = law.predict("linear", steps=[700, 2_000])
    assert found.steps.tolist() == [700, 2_000, STEPS]
    assert found.losses[-1] == found.final_loss
    whole = law.predict("linear")
    assert found.losses[1] == pytest.approx(np.interp(2_000, whole.steps, whole.losses), rel=1e-4)
    for steps in ([0], [STEPS + 1], [1.5], [float("nan")]):
        with pytest.raises(RefineError, match="steps"):
            law.predict("linear", steps=steps)


def test_other_schedules_are_predicted_about_right(law):
    for schedule in (linear(STEPS, warmup_steps=100), cosine(STEPS, warmup_steps=100), wsd(STEPS, warmup_steps=100)):
        found, true = law.predict(schedule), run(schedule, noise=0.0).losses[-1]
        assert abs(found.final_loss - true) < 0.01 * true
        assert found.low < true < found.high


def test_better_and_worse_are_beyond_two_standard_errors(law):
    assert law.difference("constant", "linear").verdict == "worse"
    assert law.difference("linear", "constant").verdict == "better"
    same = law.difference("linear", "linear")
    assert (same.value, same.verdict) == (0.0, "tie")
    assert same.low < 0.0 < same.high
    one, other = law.difference("wsd:0.3", "linear"), law.difference("linear", "wsd:0.3")
    assert one.value == pytest.approx(-other.value, rel=1e-12)
    assert one.low == pytest.approx(-other.high, rel=1e-2)


def test_what_two_schedules_share_cancels_in_their_difference(law):
    a, b = law.predict("wsd:0.6"), law.predict("wsd:0.7")
    difference = law.difference(a, b)
    assert difference.high - difference.low < 0.5 * (a.high - a.low)


def _cost_and_difference(law, name):
    """Value and standard error of a schedule against linear decay, by both ways."""
    steps, peak = law.longest.total_steps, law.longest.peak_lr
    rates, plain = (peak * from_name(each, steps).multiplier for each in (name, "linear"))
    made = (law.predict(Schedule.from_rates(each), peak_lr=peak, points=1) for each in (rates, plain))
    right = law.difference(*made)
    (cost,) = law.costs([rates], plain)
    return cost, (right.value, (right.high - right.low) / (2.0 * norm.ppf(0.95)))


@pytest.mark.parametrize("name", ["wsd:0.9", "wsd:0.5", "wsd:0.1", "cosine"])
def test_costs_are_differences(law, name):
    (value, error), (right, error_of_right) = _cost_and_difference(law, name)
    assert value == pytest.approx(right, abs=1e-9)
    assert error == pytest.approx(error_of_right, rel=1e-3)


def test_a_longer_cooldown_than_any_logged_costs_surety(short_law):
    """Linear decay is such a one here; beside a schedule of which more is known, a cost forgives it that."""
    (_, error), (_, right) = _cost_and_difference(short_law, "wsd:0.9")
    assert error == pytest.approx(right, rel=1e-3)
    (_, error), (_, right) = _cost_and_difference(short_law, "wsd:0.1")
    assert error == pytest.approx(right / WIDER, rel=1e-3)


def test_differences_across_peaks_below_a_share_are_a_tie(law):
    a, b = law.predict("linear", peak_lr=1.1e-3), law.predict("linear")
    assert abs(a.final_loss - b.final_loss) < 0.007 * b.final_loss
    assert law.difference(a, b).verdict == "tie"


def test_bars_grow_with_the_horizon_and_the_distance_of_the_peak(law):
    def relative(**options):
        found = law.predict("linear", **options)
        return found.bar / found.final_loss

    assert relative(total_steps=16_000) > relative(total_steps=8_000) > relative()
    assert relative(peak_lr=4e-3) > relative(peak_lr=2e-3) > relative()
    assert law.predict("wsd:0.2", total_steps=8_001).limits == (
        "8,001 updates are more than twice the 4,000 that are logged",
    )
    assert law.predict("linear", peak_lr=4e-3).limits == ("the peak 0.004 is 4 times away from what was logged",)
    assert law.predict("linear").limits == ()


def test_the_best_of_several(law):
    assert law.best(["constant", "linear"]).name == "linear"
    assert law.best({"flat": constant(STEPS), "down": linear(STEPS)}).name == "down"
    with pytest.raises(RefineError, match="no candidates"):
        law.best([])


def test_more_runs_narrow_the_bars(law):
    both = fit_loss([run(), run(cosine(STEPS, warmup_steps=100), seed=1)])
    assert both.predict("linear").bar < law.predict("linear").bar
    assert both.limits == ()


def test_losses_are_used_after_the_burn_in():
    points = points_of(run())
    assert points.at[0] == 600.0 == BURN_IN * STEPS
    assert points.at.size == 86
    late = points_of(run(linear(STEPS, warmup_steps=1_500)))
    assert late.at[0] == 1_520.0


def test_the_training_loss_of_every_step_is_binned_by_its_scatter():
    points = points_of(run(noise=0.05, every=1, sort="training"))
    assert points.at.size == 60
    assert np.median(points.sigma) == pytest.approx(0.05 / np.sqrt(3400 / 60), rel=0.1)
    assert points_of(run(every=40)).sigma.tolist() == [0.002] * 86


def test_a_mean_over_a_window_belongs_to_its_middle():
    curve = run()
    assert points_of(replace(curve, window=41)).at == pytest.approx(points_of(curve).at - 20.0)


def test_what_is_predicted_from_a_noisy_training_loss_is_less_sure(law):
    noisy = fit_loss(run(noise=0.05, every=10, sort="training"))
    assert noisy.predict("linear").bar > law.predict("linear").bar


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (lambda: run(constant(STEPS, warmup_steps=100)), "the rate never drops"),
        (lambda: run(every=400), r"array: \d+ losses lie after the burn-in, update 600, and at least 12 are needed"),
        (lambda: [run(), run(sort="training")], "training and validation losses, which are different evaluations"),
        (lambda: replace(run(), lost=50), "the run diverged"),
        (lambda: run(upto=2_500), "the rate never drops"),
    ],
)
def test_what_cannot_be_answered_is_refused(runs, message):
    with pytest.raises(RefineError, match=message):
        fit_loss(runs())


def test_unknown_laws_and_far_peaks_of_laws_that_cannot_cross_them():
    with pytest.raises(RefineError, match="law is 'magic'; it must be one of memory"):
        fit_loss(run(), law="magic")
    for name in ("multi-power", "annealing"):
        law = fit_loss(run(), law=name)
        assert np.isfinite(law.predict("linear").final_loss)
        with pytest.raises(RefineError, match=f"the {name} law cannot cross peaks"):
            law.predict("linear", peak_lr=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 50}, "50 updates at a peak of 0.001 do not get as far as the burn-in of the logs"),
        ({"peak_lr": 1e-6}, "4,000 updates at a peak of 1e-06 do not get as far as the burn-in"),
        ({"peak_lr": 1.0}, "peak_lr is 1, more than 32 times the highest that is logged, 0.001"),
        ({"peak_lr": 0.0}, "peak_lr is 0.0; it must be a positive number"),
    ],
)
def test_what_lies_too_far_off_is_refused(law, options, message):
    with pytest.raises(RefineError, match=message):
        law.predict("linear", **options)
    with pytest.raises(RefineError, match=message):
        law.compare(**options)


def test_a_log_that_ends_at_a_high_rate_widens_the_bars():
    early = fit_loss(run(upto=3_300))
    assert early.limits == (
        "no log reaches a rate below half of its peak: what the rest of a decay gains is extrapolated",
    )
    assert early.predict("linear").limits[0] == early.limits[0]


def test_a_log_of_a_branch_alone_is_refused_or_widens_the_bars():
    whole = run()
    late = whole.steps > 2_400
    branch = replace(whole, steps=whole.steps[late], losses=whole.losses[late], known_from=2_400)
    with pytest.raises(RefineError, match="the log starts at update 2,401 of 4,000.*name the log of its trunk too"):
        fit_loss(branch)
    known = replace(branch, known_from=0)  # the rates are those of a schedule that was named
    assert "no log holds the first half of its run: name that of the trunk too" in fit_loss(known).limits
    assert fit_loss([whole, branch]).limits == ()


def test_two_logged_peaks_need_no_step_across_peaks():
    law = fit_loss([run(), run(peak=5e-4, seed=1)])
    one, other = (law.predict("linear", peak_lr=peak) for peak in (1e-3, 5e-4))
    beyond = law.predict("linear", peak_lr=2e-3)
    near, far = law.difference(one, other), law.difference(beyond, one)
    assert near.high - near.low < 0.5 * (far.high - far.low)


def test_a_much_longer_cooldown_widens_the_bar():
    short = fit_loss(run(wsd(STEPS, cooldown_fraction=0.08, warmup_steps=100)))
    assert short.predict("wsd:0.2").limits == ()
    [limit] = short.predict("linear").limits
    assert limit == "its cooldown takes 3,705 updates, more than four times the longest that is logged, 303"


def test_no_share_of_noise_is_said():
    curve = run()
    area = np.cumsum(curve.rates)[curve.steps - 1] * 1e3 / STEPS
    flat = replace(curve, losses=2.0 + 0.3 * area**-0.46 + 0.05 * (1.0 - curve.rates[curve.steps - 1] * 1e3))
    limits = fit_loss(flat).limits
    assert [limit for limit in limits if "no share of" in limit]


def test_spikes_are_said():
    curve = run()
    spiked = curve.losses.copy()
    spiked[20::12] *= 1.2
    assert (
        "of the losses lie beyond 5 standard deviations: spikes or jumps"
        in fit_loss(replace(curve, losses=spiked)).limits[0]
    )


def test_runs_that_lie_apart_are_said():
    other = run(cosine(STEPS, warmup_steps=100), name="other.csv")
    law = fit_loss([run(), run(seed=2), replace(other, losses=1.05 * other.losses)])
    assert any("other.csv lies" in limit and "batch size are the same" in limit for limit in law.limits)
    assert law.predict("linear").bar > fit_loss([run(), other]).predict("linear").bar


def test_training_data_that_was_seen_more_than_once_widens_the_bars():
    known = {epochs: fit_loss(replace(run(sort="training"), epochs=epochs)) for epochs in (None, 1.0, 3.0)}
    assert known[None].limits == known[1.0].limits == ()
    assert known[3.0].limits == ("the training loss is that of data seen 3 times: it falls below that of new data",)
    assert known[3.0].predict("linear").bar == pytest.approx(1.5 * known[1.0].predict("linear").bar)
    assert fit_loss(replace(run(), epochs=3.0)).limits == ()


def test_batch_sizes_weigh_the_noise():
    noise = np.where(np.arange(STEPS) < 2_000, 1.0, 0.25)
    law = fit_loss(replace(run(), noise=noise))
    assert law.noise_of(8).tolist() == [1.0] * 4 + [0.25] * 4
    assert "the batch size changes: " in law.summary()
    assert fit_loss(run()).noise_of(8) is None


def test_a_file_of_a_schedule(law, tmp_path):
    path = tmp_path / "s.csv"
    linear(2_000).save(path)
    assert law.predict(str(path)).total_steps == 2_000
    assert law.predict(str(path), total_steps=3_000).total_steps == 3_000
    assert law.predict(linear(10), total_steps=500).total_steps == 500


def test_the_packaged_calibration():
    known = json.loads(files("refine").joinpath("loss_calibration.json").read_text())
    found = calibration()
    assert found.groups == len(known["models"]) >= 3
    assert 0.85 <= found.coverage <= 0.95
    assert found.cases > 1_000


def test_any_unit_of_the_rates_gives_the_same(law):
    scaled = fit_loss(run(peak=1.0).__class__.from_values(run().losses, run().steps, rates=run().rates * 1e3))
    assert scaled.predict("linear").final_loss == pytest.approx(law.predict("linear").final_loss, rel=1e-9)
