from dataclasses import replace

import numpy as np
import pytest

from refine import GradientNorms, RefineError, Schedule, fit
from refine.prior import named_schedule, read_prior

T, W = 400, 40
USED = np.minimum(np.arange(1, T + 1) / W, (T + 1 - np.arange(1, T + 1)) / (T + 1 - W))


def log(stride, *, ahead, **source):
    """A log of a run whose update t ran at USED[t]; with ``ahead`` its rows hold the rate of the next update."""
    steps = np.arange(stride, T + 1, stride)
    rates = np.append(USED, 0.0)[steps - 1 + ahead]
    norms = GradientNorms.from_values(np.ones(steps.size), steps, learning_rate=rates)
    return replace(norms, source=replace(norms.source, **source))


@pytest.mark.parametrize("stride", [1, 10])
def test_rates_of_the_next_step_are_moved_by_one(stride):
    same = read_prior(log(stride, ahead=0, lr_alignment="this_step"))
    moved = read_prior(log(stride, ahead=1, lr_alignment="next_step"))
    assert (same.warmup_steps, same.peak_lr) == (W, 1.0)
    inside = slice(stride, T - 1)
    np.testing.assert_allclose(same.multiplier[inside], USED[inside], rtol=1e-12)
    if stride == 1:
        assert (moved.warmup_steps, moved.peak_lr) == (W, 1.0)
        np.testing.assert_allclose(moved.multiplier[1:], USED[1:], rtol=1e-12)
    else:  # no row holds the peak: the next one is a little lower
        assert moved.warmup_steps == W + 1
        np.testing.assert_allclose(moved.multiplier[W:-1], USED[W:-1] / USED[W], rtol=1e-12)


def test_a_constant_rate_has_no_warmup_in_either_alignment():
    norms = GradientNorms.from_values(np.ones(50), learning_rate=np.full(50, 0.1))
    for alignment in ("this_step", "next_step", "unknown"):
        prior = read_prior(replace(norms, source=replace(norms.source, lr_alignment=alignment)))
        assert (prior.warmup_steps, prior.is_constant) == (0, True)


def test_settings_stand_in_where_no_rates_are_logged():
    norms = GradientNorms.from_values(np.ones(50))
    told = replace(norms, source=replace(norms.source, settings={"learning_rate": "3e-4", "warmup_steps": 20}))
    prior = read_prior(told)
    assert (prior.peak_lr, prior.warmup_steps, prior.multiplier) == (3e-4, 20, None)
    assert prior.notes == ("the peak learning rate 0.0003 is that of the settings beside the log",)
    assert read_prior(told, peak_lr=0.5).peak_lr == 0.5
    assert read_prior(told, Schedule(np.ones(5))).warmup_steps == 0
    assert read_prior(norms).peak_lr is None
    for odd in ({"learning_rate": -1.0}, {"learning_rate": "auto"}, {"warmup_steps": -5}, {"warmup_steps": None}):
        prior = read_prior(replace(norms, source=replace(norms.source, settings=odd)))
        assert (prior.peak_lr, prior.warmup_steps) == (None, None)


def test_settings_tell_the_warmup_that_coarse_rows_hide():
    steps = np.arange(500, 15_001, 500)
    norms = GradientNorms.from_values(np.ones(30), steps, learning_rate=1e-3 * (1 - (steps - 1) / 15_000))
    assert read_prior(norms).warmup_steps == 500
    for settings, warmup in (
        ({"warmup_steps": 100}, 100),
        ({"warmup_steps": 0}, 0),
        ({"warmup_steps": 0, "warmup_ratio": 0.01}, 150),
        ({"warmup_steps": 0.01}, 150),
        ({"warmup_steps": 900}, 500),
    ):
        assert read_prior(replace(norms, source=replace(norms.source, settings=settings))).warmup_steps == warmup


def test_a_log_resumed_at_a_smaller_stride_still_shows_its_start():
    steps = np.array([10, 20, 30, *range(32, 101, 2)])
    norms = GradientNorms.from_values(np.ones(steps.size), steps, learning_rate=np.minimum(steps / 20, 1.0))
    assert (read_prior(norms).warmup_steps, read_prior(norms).peak_lr) == (20, 1.0)


def test_a_result_is_no_prior_schedule_but_holds_some():
    result = fit(np.ones(50), optimizer="adam")
    with pytest.raises(RefineError, match=r"prior_schedule is a Refinement; it must be a Schedule \(of a fit: \.ref"):
        fit(result.norms, prior_schedule=result)
    assert fit(result.norms, prior_schedule=result.recommended).prior.origin == "given"


def test_the_peak_of_a_schedule_that_is_none_of_the_result_is_refused():
    with pytest.raises(RefineError, match="no schedule is called 'wsd'; there are refined, recommended, linear, cos"):
        fit(np.ones(50), optimizer="adam").peak_lr("wsd")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/dev/zero", "/dev/zero is not a regular file; check the path"),
        ("linaer", "schedule 'linaer' is not a file and not a family"),
        ("linear", "linear has no length of its own; give the number of updates with --total-steps"),
    ],
)
def test_what_a_name_of_no_schedule_is_told(name, said):
    with pytest.raises(RefineError, match=f"^{said}"):
        named_schedule(name, None)
