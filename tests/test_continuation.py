import numpy as np
import pytest
from numpy.testing import assert_allclose

from refine import GradientNorms, RefineError, constant, cosine, linear, read_norms
from refine.bound import omega_at_best_peak
from refine.continuation import continue_run
from refine.norms import Source
from refine.refinement import refined_multiplier
from refine.smoothing import smooth
from refine.transfer import best_tail

T = 1000


def log_of(schedule, *, until=None, peak=0.1, every=1, norms=None, **source):
    """A log of the first ``until`` updates of a run under a schedule."""
    steps = np.arange(every, (until or schedule.total_steps) + 1, every)
    values = np.ones(steps.size) if norms is None else norms[steps - 1]
    return GradientNorms.from_values(
        values,
        steps,
        learning_rate=peak * schedule.multiplier[steps - 1],
        logged_steps=schedule.total_steps if source else None,
        source=Source(optimizer="sgd", **source),
    )


def test_cooling_down_from_a_constant_phase():
    norms = log_of(constant(T), until=600)
    found = continue_run(norms, at=600, total_steps=800)
    h = found.schedule.multiplier
    assert h.size == 800
    assert h[:600].tolist() == [1.0] * 600
    assert np.all(h[600 : 600 + found.hold_steps] == 1.0)
    assert np.all(np.diff(h[600 + found.hold_steps :]) < 0)
    assert h[-1] < 0.02
    assert found.peak_lr == pytest.approx(0.1)
    assert any("constant norms from here on" in line for line in found.assumptions)
    # Constant norms to come: the anneal is a straight line.
    anneal = h[600 + found.hold_steps :]
    assert_allclose(anneal / anneal[0], linear(anneal.size).multiplier, rtol=1e-9)
    now = continue_run(norms, at=600, total_steps=800, hold_steps=0)
    assert now.hold_steps == 0
    assert now.schedule.multiplier[600] <= 1.0


@pytest.mark.parametrize("plan", [constant(T), linear(T), cosine(T, warmup_steps=50)])
@pytest.mark.parametrize("at", [100, 500, 900])
@pytest.mark.parametrize("total_steps", [950, 1000, 3000])
def test_it_never_rises_above_the_present_rate_unless_rewarmed(plan, at, total_steps):
    n = 1 + 3 * np.exp(-np.arange(T) / 100)
    norms = log_of(plan, norms=n)
    found = continue_run(norms, at=at, total_steps=total_steps)
    h = found.schedule.multiplier * found.peak_lr
    assert h.size == total_steps
    assert_allclose(h[:at], 0.1 * plan.multiplier[:at], rtol=1e-9)
    assert h[at:].max() <= h[at - 1] * (1 + 1e-12)
    assert found.over_linear >= 1 - 1e-6 or plan.multiplier[at - 1] < 1
    free = continue_run(norms, at=at, total_steps=total_steps, rewarm=True)
    assert_allclose(free.schedule.multiplier[:at] * free.peak_lr, 0.1 * plan.multiplier[:at], rtol=1e-9)
    assert found.over_rewarmed <= 1.005
    assert free.schedule.multiplier.max() == 1.0


def test_rewarming_above_the_peak_raises_the_base_rate_and_says_so():
    found = continue_run(log_of(constant(T)), at=300, total_steps=T, rewarm=True)
    assert found.peak_lr > 0.12
    assert found.schedule.multiplier[0] == pytest.approx(0.1 / found.peak_lr)
    assert f"({found.peak_lr:.6g})" in found.summary()
    assert "last_epoch=299" in found.summary()
    assert "better than annealing in a straight line" in found.summary()
    assert "as good as the best that may rise" in found.summary()


def test_norms_after_the_present_update_are_used_where_the_log_has_them():
    n = np.linspace(1.0, 4.0, T)
    norms = log_of(linear(T), norms=n)
    found = continue_run(norms, at=500, total_steps=1500, smoothing=0.0, rewarm=True)
    # The 500 logged norms that follow, stretched over 1,000 updates: N = G^2 for SGD.
    to_come = np.interp(500 + (np.arange(1000) + 0.5) / 2 - 0.5, np.arange(T), n) ** 2
    tail = found.schedule.multiplier[500:]
    assert_allclose(tail / tail.max(), refined_multiplier(1 / to_come), rtol=1e-9)
    assert any("as the log has them after this update" in line for line in found.assumptions)
    distance = 1 / omega_at_best_peak(linear(T).multiplier, n**2 / 16).peak_lr
    whole = np.concatenate([n[:500] ** 2, to_come]) / 16
    expected = best_tail(linear(T).multiplier[:500], whole, distance=distance, rewarm=True).multiplier
    assert_allclose(found.schedule.multiplier[500:] * found.peak_lr / 0.1, expected, rtol=1e-9)


def test_a_run_in_progress_whose_plan_the_log_tells():
    done = log_of(cosine(T), until=400, name="run")
    assert done.total_steps == T
    found = continue_run(done, at=400, total_steps=T)
    assert any("what the run has done: its plan is unknown" in line for line in found.assumptions)
    planned = continue_run(done, at=400, total_steps=T, planned="cosine")
    assert any("the planned schedule, over 1,000 updates" in line for line in planned.assumptions)
    assert_allclose(planned.schedule.multiplier[:400], cosine(T).multiplier[:400], rtol=1e-9)


def test_the_unit_of_the_peak_changes_nothing():
    norms = log_of(linear(T), peak=1e-3)
    found, given = (continue_run(norms, at=700, total_steps=1500, peak_lr=peak) for peak in (None, 1e-2))
    assert given.hold_steps == found.hold_steps
    rates, same = (run.schedule.multiplier * run.peak_lr for run in (found, given))
    assert_allclose(same, rates, rtol=1e-9)


def test_the_plan_of_a_file_has_its_own_length(tmp_path):
    path = str(linear(2 * T).save(tmp_path / "plan.json"))
    without = GradientNorms.from_values(np.ones(T))
    found = continue_run(without, at=T, total_steps=2 * T, planned=path)
    assert_allclose(found.schedule.multiplier[:T], linear(2 * T).multiplier[:T], rtol=1e-9)
    with_rates = log_of(linear(2 * T), until=T)
    same = continue_run(with_rates, at=T, total_steps=2 * T, planned=path)
    # Half way through linear decay on constant norms the best rest is its second half.
    for run in (found, same):
        assert_allclose(run.schedule.multiplier[T:], linear(2 * T).multiplier[T:], atol=0.01)


def late_log(start, **source):
    steps = np.arange(start, T + 1)
    rates = 0.1 * linear(T).multiplier[start - 1 :]
    return GradientNorms.from_values(np.ones(steps.size), steps, learning_rate=rates, source=Source(**source))


def test_a_log_that_starts_late_needs_the_plan_for_its_start():
    with pytest.raises(RefineError, match=r"no learning rate of the first 300 updates.* \(--prior-schedule\)"):
        continue_run(late_log(301), at=500, total_steps=1200)
    whole = continue_run(log_of(linear(T)), at=500, total_steps=1200, optimizer="sgd")
    found = continue_run(late_log(301), at=500, total_steps=1200, optimizer="sgd", planned="linear")
    assert found.peak_lr == pytest.approx(whole.peak_lr)
    assert_allclose(found.schedule.multiplier, whole.schedule.multiplier, atol=2e-3)
    assert any("the first 300 updates, of which no rate is logged, went as planned" in a for a in found.assumptions)


def test_rates_that_contradict_the_plan_are_told():
    found = continue_run(log_of(linear(T)), at=500, total_steps=T, planned="constant")
    assert any("of the peak away from the planned schedule" in line for line in found.assumptions)
    agreed = continue_run(log_of(linear(T)), at=500, total_steps=T, planned="linear")
    assert not any("away from the planned" in line for line in agreed.assumptions)


def test_what_is_known_of_an_unfinished_run_does_not_change_with_its_planned_length():
    n = np.exp(-3 * np.arange(T) / T)
    steps = np.arange(1, T + 1)

    def hold(logged_steps):
        norms = GradientNorms.from_values(n, steps, learning_rate=np.full(T, 0.1), logged_steps=logged_steps)
        return continue_run(norms, at=T, total_steps=2 * T, optimizer="sgd").hold_steps

    assert hold(2 * T) == hold(4 * T)


def test_warnings():
    def notes(norms, **how):
        return " ".join(continue_run(norms, **how).warnings)

    assert "give --logged-steps" in notes(log_of(linear(2 * T), until=T), at=T, total_steps=2 * T)
    assert "still warming up" in notes(log_of(linear(T, warmup_steps=200)), at=100, total_steps=T)
    falling = log_of(linear(T), norms=np.exp(-6 * np.arange(T) / T))
    assert "near-separable" in notes(falling, at=500, total_steps=T)
    assert "the rate drops at once" in notes(log_of(linear(T)), at=500, total_steps=200 * T)
    assert notes(log_of(linear(T)), at=500, total_steps=T) == ""


def test_a_rate_that_is_not_in_the_log_is_told():
    found = continue_run(log_of(linear(T), every=150), at=T, total_steps=2 * T)
    assert any("the rate of update 1,000 is that of update 900, the last one logged" in a for a in found.assumptions)


def test_a_last_rate_of_zero_is_of_no_update():
    rates = np.full(T, 0.1)
    rates[-1] = 0.0
    norms = GradientNorms.from_values(np.ones(T), learning_rate=rates)
    found = continue_run(norms, at=T, total_steps=2 * T)
    assert found.schedule.multiplier[T - 1] == 1.0
    assert any("is that of no update: it is left out" in line for line in found.warnings)


def test_a_log_without_rates_needs_the_planned_schedule():
    norms = GradientNorms.from_values(np.ones(400), logged_steps=T)
    with pytest.raises(RefineError, match=r"the log holds no learning rates.* name its schedule \(--prior-schedule\)"):
        continue_run(norms, at=400, total_steps=T)
    found = continue_run(norms, at=400, total_steps=T, planned="wsd:0.5,warmup_steps=20")
    assert found.peak_lr is None
    assert found.schedule.multiplier[:20].tolist() == pytest.approx([(t + 1) / 20 for t in range(20)])
    assert continue_run(norms, at=400, total_steps=T, planned="constant", peak_lr=0.3).peak_lr == pytest.approx(0.3)


def test_coarse_logs():
    fine, coarse = (continue_run(log_of(cosine(T), every=k), at=500, total_steps=2000) for k in (1, 10))
    assert coarse.hold_steps == pytest.approx(fine.hold_steps, abs=40)
    assert_allclose(coarse.schedule.multiplier, fine.schedule.multiplier, atol=0.02)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"at": 500, "total_steps": 500}, "total_steps is 500 and 500 updates are done; it must be more"),
        ({"at": 0, "total_steps": 500}, "at is 0; it must be an integer >= 1"),
        ({"at": 1500, "total_steps": 3000}, "1500 updates are said to be done and the logged rates end at update 1000"),
        ({"at": 10, "total_steps": 20, "hold_steps": 10}, "hold_steps is 10; it must be from 0 to 9"),
    ],
)
def test_errors(how, message):
    with pytest.raises(RefineError, match=message):
        continue_run(log_of(linear(T)), **how)


def test_norms_of_any_size_are_taken():
    for scale in (1e-200, 1e150):
        n = scale * (1 + np.arange(T) / T)
        found = continue_run(log_of(linear(T), norms=n), at=500, total_steps=1200)
        assert np.all(np.isfinite(found.schedule.multiplier))


def test_on_our_own_log(root):
    norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
    found = continue_run(norms, at=1500, total_steps=3000)
    # Its plan was linear decay on nearly constant norms: go on with it.
    assert_allclose(found.schedule.multiplier[1500:], norms.learning_rate[1500:] / norms.learning_rate.max(), atol=0.08)
    assert smooth(norms.values).size == 3000
