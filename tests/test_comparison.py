import csv
import io
import math

import numpy as np
import pytest

from refine import (
    GradientNorms,
    RefineError,
    Schedule,
    constant,
    cosine,
    fit,
    from_name,
    linear,
    read_norms,
)
from refine.bound import best_omega, omega_at_best_peak, optimal_rates
from refine.comparison import CAVEAT, DEFAULT_NAMES, compare, compare_named
from refine.smoothing import smooth
from refine.tight import best_tight

T = 600


@pytest.fixture
def log():
    t = np.arange(1, T + 1)
    values = (1 + 4 * np.exp(-t / 20)) * np.exp(np.random.default_rng(0).normal(0, 0.2, T))
    return GradientNorms.from_values(values, t, learning_rate=linear(T, warmup_steps=30).multiplier * 0.1)


def test_on_constant_norms_each_number_is_that_of_its_formula():
    schedules = {"linear": linear(T), "cosine": cosine(T, warmup_steps=60), "flat": constant(T)}
    found = compare(schedules)
    flat = np.ones(T)
    assert [row.name for row in found.rows] == ["linear", "cosine", "flat"]
    best = best_omega(linear(T).multiplier, flat)
    for row in found.rows:
        h = schedules[row.name].multiplier
        assert row.relative_bound == pytest.approx(best_omega(h, flat) / best, rel=1e-12)
        assert row.tight_bound == pytest.approx(best_tight(h, flat), rel=1e-9)
        ratio = omega_at_best_peak(h, flat).peak_lr / omega_at_best_peak(linear(T).multiplier, flat).peak_lr
        assert row.peak_lr_ratio == pytest.approx(ratio, rel=1e-6)
        assert row.area == pytest.approx(h.mean())
        assert row.final_factor == h[-1]
    assert found.rows[1].warmup_fraction == pytest.approx(53 / T)  # 54 of 60 updates is 90 %
    assert found.least == pytest.approx(optimal_rates(np.ones(T + 1))[1] / best, rel=1e-12)
    assert found.least < 1


@pytest.mark.parametrize(("optimizer", "power"), [("sgd", 2), ("adam", 1)])
def test_a_log_ranks_on_smoothed_norms_and_guarantees_on_raw_ones(log, optimizer, power):
    schedules = {"linear": linear(T), "refined": fit(log, optimizer=optimizer).refined}
    found = compare(schedules, log, optimizer=optimizer)
    smoothed, raw = smooth(log.values) ** power, log.values**power
    for row in found.rows:
        h = schedules[row.name].multiplier
        best = min(best_omega(s.multiplier, smoothed) for s in schedules.values())
        assert row.relative_bound == pytest.approx(best_omega(h, smoothed) / best, rel=1e-9)
        assert row.tight_bound == pytest.approx(best_tight(h, raw), rel=1e-6)
        ratio = omega_at_best_peak(h, raw).peak_lr / omega_at_best_peak(linear(T).multiplier, raw).peak_lr
        assert row.peak_lr_ratio == pytest.approx(ratio, rel=1e-6)


def test_scaling_all_norms_scales_the_guarantee_alone(log):
    schedules = {"linear": linear(T), "cosine": cosine(T)}
    scaled = GradientNorms.from_values(log.values * 1e150, log.steps)
    one, other = (compare(schedules, norms, optimizer="sgd") for norms in (log, scaled))
    for a, b in zip(one.rows, other.rows, strict=True):
        assert (a.name, a.area) == (b.name, b.area)
        assert b.relative_bound == pytest.approx(a.relative_bound, rel=1e-9)
        assert b.tight_bound == pytest.approx(a.tight_bound * 1e150, rel=1e-9)


def test_curves_end_at_the_relative_bound(log):
    found = compare({"linear": linear(T), "flat": constant(T)}, log)
    for row in found.rows:
        updates, values = found.curve(row.name)
        assert updates[0] == 1
        assert updates[-1] == T
        assert values[-1] == pytest.approx(row.relative_bound, rel=1e-6)
        assert np.all(np.diff(updates) > 0)
        assert values[0] > values[-1]


def test_long_runs_are_thinned_without_a_change():
    def rows(steps):
        found = compare({"linear": linear(steps), "cosine": cosine(steps)})
        return [(r.relative_bound, r.tight_bound * math.sqrt(steps), r.peak_lr_ratio) for r in found.rows]

    for long, short in zip(rows(400_000), rows(20_000), strict=True):
        assert long == pytest.approx(short, rel=1e-3)


@pytest.mark.parametrize("shape", [np.ones(T), lambda t: 1 / t, "1/t"])
def test_an_assumed_shape_of_the_norms_is_refused(shape):
    with pytest.raises(RefineError, match="only those of a log .* assumed shapes ranked real runs the wrong way round"):
        compare({"linear": linear(T)}, shape)


def test_schedules_of_two_lengths_are_refused():
    with pytest.raises(RefineError, match="b has 20 updates and a 10; schedules of one length are compared: retarget"):
        compare({"a": linear(10), "b": linear(20)})
    with pytest.raises(RefineError, match="there is no schedule to compare"):
        compare({})


def test_names_with_a_log(log, tmp_path):
    result = fit(log, optimizer="sgd")
    path = str(result.refined.save(tmp_path / "schedule.json"))
    found = compare_named(["cosine", "linear:warmup_steps=0", path], log, optimizer="sgd")
    assert set(found.schedules) == {
        "logged run",
        "refined",
        "recommended (linear)",
        "cosine",
        "linear:warmup_steps=0",
        path,
    }
    assert found.schedules["recommended (linear)"] == result.recommended
    assert found.schedules["cosine"] == cosine(T, warmup_steps=30)
    assert found.schedules["linear:warmup_steps=0"] == linear(T)
    assert found.schedules[path] == found.schedules["refined"] == result.refined
    assert found.reference == "logged run"
    by_name = {row.name: row for row in found.rows}
    assert by_name["logged run"].peak_lr_ratio == 1.0
    # The same numbers as refine fit.
    assert by_name["cosine"].relative_bound / by_name["refined"].relative_bound == pytest.approx(
        result.measures["cosine"].relative_bound / result.measures["refined"].relative_bound, rel=1e-9
    )
    assert by_name["refined"].peak_lr_ratio == pytest.approx(
        result.measures["refined"].peak_lr_ratio_by_bound, rel=1e-6
    )
    assert any("30 updates" in note for note in found.notes)


def test_names_without_a_log(tmp_path):
    found = compare_named([], total_steps=100)
    assert set(found.schedules) == set(DEFAULT_NAMES)
    path = str(Schedule(linear(50).multiplier).save(tmp_path / "mine.csv"))
    assert compare_named([path, "cosine"]).schedules["cosine"].total_steps == 50
    with pytest.raises(RefineError, match="families have no length of their own; give the number of updates"):
        compare_named(["cosine"])


def test_no_peak_is_suggested_on_near_separable_logs():
    t = np.arange(1, 401)
    norms = GradientNorms.from_values(np.exp(-t / 40), t, learning_rate=linear(400).multiplier)
    found = compare_named(["cosine"], norms)
    assert all(row.peak_lr_ratio is None for row in found.rows)
    assert "near-separable" in found.summary()
    assert "unknown" in found.summary()


def test_the_text_says_what_it_is_worth(log):
    text = compare_named(["cosine"], log).summary()
    assert "0.63 to 0.93" in " ".join(text.split())
    assert "0.63 to 0.93" in CAVEAT
    assert "optimizer adam is assumed" in text


def test_csv_holds_the_rows_exactly(log):
    found = compare_named(["cosine", "wsd:0.2,shape=sqrt"], log)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["name"] for row in rows] == [row.name for row in found.rows]
    assert [float(row["tight_bound"]) for row in rows] == [row.tight_bound for row in found.rows]


def test_on_our_own_log(root):
    norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
    found = compare_named(list(DEFAULT_NAMES), norms)
    assert found.rows[0].name == "refined"
    assert found.least == pytest.approx(1.0, abs=0.01)


def test_a_rise_of_its_own_is_kept(log):
    found = compare_named(["one_cycle", "one_cycle:0.2", "cosine"], log)
    assert found.schedules["one_cycle"] == from_name("one_cycle", T)
    assert found.schedules["one_cycle:0.2"] == from_name("one_cycle:0.2", T)
    assert found.schedules["cosine"] == cosine(T, warmup_steps=30)


def test_refined_is_a_row_already_and_files_take_the_length_asked_for(log, tmp_path):
    assert set(compare_named(["refined", "linear"], log).schedules) == {"logged run", "refined", "linear"}
    path = str(linear(50, warmup_steps=5).save(tmp_path / "short.json"))
    found = compare_named([path], total_steps=200)
    np.testing.assert_allclose(found.schedules[path].multiplier, linear(200, warmup_steps=5).multiplier, rtol=1e-12)


def test_the_guarantee_is_of_every_raw_norm():
    t = np.arange(1, 20_001)
    spikes = np.where(np.random.default_rng(0).random(t.size) < 1e-3, 100.0, 1.0)
    norms = GradientNorms.from_values(spikes, t)
    found = compare({"linear": linear(t.size)}, norms, optimizer="sgd")
    assert found.rows[0].tight_bound == pytest.approx(best_tight(linear(t.size).multiplier, spikes**2), rel=1e-9)
