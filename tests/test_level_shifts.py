"""Shifts of the level of the norms: none on plain logs, then the real ones."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine import GradientNorms, RefineError, fit, read_norms
from refine.health import inspect
from refine.level_shifts import (
    LevelShift,
    level_shifts,
    noise_level,
    shifts_at_batches,
    shifts_of,
    shifts_of_losses,
    without_shifts,
)
from refine.pool import pool


def found(log_norms, total_steps=None, updates=None, **options):
    updates = np.arange(log_norms.size) if updates is None else updates
    return level_shifts(np.exp(log_norms), updates, total_steps or log_norms.size, **options)


def plain(kind, seed):
    """A log norm without a shift."""
    random = np.random.default_rng(seed)
    rows = int(random.choice([120, 300, 600, 2000]))
    x = (np.arange(rows) + 0.5) / rows
    white = random.standard_normal(rows)
    drift = random.normal() * x + random.normal() * x**2 + random.uniform(0, 2) * np.exp(-x / 0.02)
    if kind == "white":
        return drift + random.uniform(0.1, 1.0) * white
    if kind == "autoregressive":
        for row in range(1, rows):
            white[row] = 0.9 * white[row - 1] + 0.44 * white[row]
        return drift + 0.3 * white
    if kind == "random walk":
        return drift + 0.1 * random.standard_normal(rows) + np.cumsum(white) / np.sqrt(rows)
    if kind == "heavy tails":
        return drift + 0.2 * random.standard_t(1.5, rows)
    if kind == "transient":
        centre, width = random.uniform(0.03, 0.15), random.uniform(0.01, 0.05)
        return drift + 0.2 * white + random.normal() * np.exp(-0.5 * ((x - centre) / width) ** 2)
    if kind == "ramp":
        return drift + 0.1 * white + np.clip((x - 0.5) / 0.06, 0, 1)
    rough = np.exp(-x / 0.1)  # unstable at first
    return drift + (0.02 + 0.3 * rough) * white + np.cumsum(random.standard_normal(rows) * rough) / np.sqrt(rows)


@pytest.mark.parametrize(
    "kind", ["white", "autoregressive", "random walk", "heavy tails", "transient", "ramp", "unstable"]
)
def test_no_shift_in_a_plain_log(kind):
    assert [seed for seed in range(12) if found(plain(kind, seed))] == []


def test_no_shift_in_real_logs(root, shared):
    folders = [root / "data", shared / "logs", shared / "llm-runs" / "grad_norm"]
    logs = [path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.csv"))]
    assert len(logs) > 3
    for path in logs:
        norms = read_norms(path)
        assert level_shifts(norms.values, norms.updates, norms.total_steps) == (), path
        thin = slice(None, None, max(norms.values.size // 300, 1))
        assert level_shifts(norms.values[thin], norms.updates[thin], norms.total_steps) == (), path


@pytest.mark.parametrize("factor", [1.15, 1 / 1.15])
def test_a_small_step_in_white_noise(factor):
    near = 0
    for seed in range(8):
        log_norms = 0.3 * np.random.default_rng(seed).standard_normal(5000)
        log_norms[2600:] += np.log(factor)
        shifts = found(log_norms)
        near += len(shifts) == 1 and abs(shifts[0].step - 2600) <= 0.03 * 5000
    assert near == 8


@pytest.mark.parametrize(
    ("places", "jumps"),
    [
        ([0.2, 0.4, 0.6, 0.8], [0.35] * 4),
        ([0.2, 0.4, 0.6, 0.8], [-0.35] * 4),
        ([0.33, 0.67], [0.4, -0.4]),
        ([0.1], [0.7]),
        ([0.93], [-0.7]),
    ],
)
@pytest.mark.parametrize("drift", [0.0, -1.5])
def test_shifts_are_found_where_they_are(places, jumps, drift):
    x = np.arange(3000) / 3000
    log_norms = 0.25 * np.random.default_rng(3).standard_normal(3000) + drift * x + np.exp(-x / 0.015)
    for place, jump in zip(places, jumps, strict=True):
        log_norms[x >= place] += jump
    shifts = found(log_norms)
    assert [shift.step / 3000 for shift in shifts] == pytest.approx(places, abs=0.005)
    assert np.log([shift.factor for shift in shifts]) == pytest.approx(jumps, abs=0.1)


def test_the_step_is_the_first_row_of_the_new_level():
    updates = np.arange(0, 100_000, 50)
    log_norms = 0.1 * np.random.default_rng(0).standard_normal(updates.size)
    log_norms[updates >= 60_000] += 0.6
    (shift,) = found(log_norms, 100_000, updates)
    assert shift.step == 60_000
    assert shift.factor == pytest.approx(np.exp(0.6), rel=0.03)
    assert shift.cause == "unknown"


@pytest.mark.parametrize("seed", [0, 1])  # one shift in some hundred looks like a ramp by chance
@settings(max_examples=10)
@given(scale=st.floats(1e-6, 1e6))
def test_scaling_the_norms_changes_nothing(scale, seed):
    log_norms = 0.3 * np.random.default_rng(seed).standard_normal(1500)
    log_norms[700:] += 0.5
    one, other = found(log_norms), found(log_norms + np.log(scale))
    assert [shift.step for shift in one] == [shift.step for shift in other] != []
    assert [shift.factor for shift in one] == pytest.approx([shift.factor for shift in other])


def test_a_jump_of_the_rate_explains_a_jump_of_the_norms():
    log_norms = 0.2 * np.random.default_rng(0).standard_normal(2000)
    log_norms[1200:] += 0.5
    rates = np.where(np.arange(2000) < 1195, 1.0, 0.1)
    assert found(log_norms)
    assert found(log_norms, rates=rates) == ()
    assert found(log_norms, rates=np.where(np.arange(2000) < 600, 1.0, 0.1)) == found(log_norms)
    assert found(log_norms, rates=np.linspace(1.0, 0.01, 2000)) == found(log_norms)


def test_a_drift_over_a_gap_is_no_shift():
    updates = np.concatenate([np.arange(0, 1000), np.arange(1600, 2600)])
    log_norms = 0.05 * np.random.default_rng(0).standard_normal(2000)
    log_norms[1000:] += 0.6
    assert found(log_norms)
    assert found(log_norms, 2600, updates) == ()


@pytest.mark.parametrize("scatter", [0.0, 0.1])
def test_a_short_wave_has_no_levels(scatter):
    at = np.arange(500)
    log_norms = np.log(np.where(at % 100 < 20, 30.0, 1.0)) + scatter * np.random.default_rng(0).standard_normal(500)
    assert found(log_norms) == ()


def test_spikes_are_no_shift():
    random = np.random.default_rng(0)
    log_norms = 0.1 * random.standard_normal(2000)
    log_norms[random.choice(2000, 60)] += random.exponential(3.0, 60)
    log_norms[900:903] += 5.0
    assert found(log_norms) == ()


@pytest.mark.parametrize("norms", [[], [1.0], [1.0, 2.0], [2.0] * 500, np.r_[[1.0] * 20, [2.0] * 20]])
def test_too_little_to_tell(norms):
    assert level_shifts(norms, np.arange(len(norms)), max(len(norms), 1)) == ()


def test_a_million_rows_take_about_a_second():
    log_norms = 0.3 * np.random.default_rng(0).standard_normal(1_000_000)
    log_norms[400_000:] += 0.2
    start = time.perf_counter()
    (shift,) = found(log_norms)
    assert time.perf_counter() - start < 10.0  # a busy machine
    assert abs(shift.step - 400_000) < 100


def test_the_level_of_the_noise():
    shifts = (LevelShift(3, 2.0), LevelShift(5, 0.25))
    np.testing.assert_allclose(noise_level(shifts, 7, 2.0), [1, 1, 1, 4, 4, 0.25, 0.25], rtol=1e-15)
    np.testing.assert_array_equal(noise_level((), 3), np.ones(3))
    np.testing.assert_array_equal(noise_level(shifts[::-1], 7), noise_level(shifts, 7))
    np.testing.assert_array_equal(noise_level((LevelShift(3, 2.0), LevelShift(9, 2.0)), 4), [1, 1, 1, 2])
    for factor in (1e-200, 1e200):
        level = noise_level((LevelShift(1, factor), LevelShift(2, factor)), 3)
        assert np.isfinite(1.0 / level).all()


def test_errors():
    with pytest.raises(RefineError, match=r"norms have shape \(3,\) and updates \(2,\)"):
        level_shifts([1, 2, 3], [0, 1], 3)
    with pytest.raises(RefineError, match="norms must be finite and positive"):
        level_shifts([1, 0, 3], [0, 1, 2], 3)
    with pytest.raises(RefineError, match=r"rates have shape \(1,\)"):
        level_shifts(np.linspace(1, 2, 100), np.arange(100), 100, rates=[1.0])


T = 2000


def log(before=16, after=128, power=0.25, at=1200, loss=None, **more):
    """Norms of a run that changes its batch size; they fall by ``(before / after)^power`` there."""
    sizes = np.where(np.arange(T) < at, float(before), float(after))
    noise = np.random.default_rng(1).lognormal(sigma=0.2, size=T)
    return GradientNorms.from_values(3.0 * noise * (before / sizes) ** power, loss=loss, batch_size=sizes, **more)


class TestOfALog:
    def test_a_change_of_the_batch_is_the_cause(self):
        (shift,) = shifts_of(log())
        assert (shift.step, shift.cause) == (1200, "batch size")
        assert shift.factor == pytest.approx(8**-0.25, rel=0.03)

    def test_a_jump_elsewhere_has_none(self):
        norms = log()
        other = replace(norms, values=norms.values * np.where(np.arange(T) < 600, 1.0, 2.0))
        first, second = shifts_of(other)
        assert (first.step, first.cause) == (pytest.approx(600, abs=5), "unknown")
        assert (second.step, second.cause) == (1200, "batch size")

    @pytest.mark.parametrize("power", [0.0, -0.25, 1.0])
    def test_what_a_batch_cannot_do_is_not_its_effect(self, power):
        """No jump, one the wrong way, and one larger than that of a norm of all noise, which is cut."""
        found = [shift for shift in shifts_of(log(power=power)) if shift.cause == "batch size"]
        assert [shift.factor for shift in found] == ([pytest.approx(8**-0.5)] if power == 1.0 else [])

    def test_a_small_jump_is_believed_where_the_place_is_known(self):
        norms = log(8, 11, 0.25)
        (shift,) = shifts_of(norms)
        assert shift.factor == pytest.approx((8 / 11) ** 0.25, rel=0.03)
        assert shifts_of(replace(norms, batch_size=None)) == ()

    def test_a_ramp_has_no_shifts(self):
        sizes = np.repeat(np.linspace(8, 64, 40), 50)
        norms = 3.0 * np.random.default_rng(1).lognormal(sigma=0.2, size=T) * sizes**-0.25
        assert shifts_at_batches(norms, np.arange(T), sizes) == ()

    def test_pooled_norms_have_none(self):
        pooled = pool([log(), log()])
        assert shifts_of(pooled) == shifts_of_losses(pooled) == ()

    def test_losses_that_jump(self):
        loss = (2.0 + np.exp(-np.arange(T) / 500)) * np.where(np.arange(T) < 800, 1.0, 1.3)
        loss *= np.random.default_rng(2).lognormal(sigma=0.02, size=T)
        (shift,) = shifts_of_losses(log(loss=loss))
        assert shift.step == pytest.approx(800, abs=3)
        assert shifts_of_losses(log(loss=np.where(np.arange(T) == 5, np.nan, loss))) != ()
        assert shifts_of_losses(log()) == ()

    def test_without_them_the_level_is_that_of_the_start(self):
        norms = log()
        plain = without_shifts(norms, shifts_of(norms))
        early, late = plain.values[:1200], plain.values[1200:]
        assert np.median(late) == pytest.approx(np.median(early), rel=0.03)
        np.testing.assert_array_equal(early, norms.values[:1200])
        assert without_shifts(norms, ()) is norms
        far = without_shifts(replace(norms, values=norms.values * 1e300), (LevelShift(5, 1e-30), LevelShift(9, 1e-30)))
        assert np.isfinite(far.values).all()

    def test_a_batch_that_grew_is_no_annealing(self):
        """From 16 to 128 at pure noise: the norms fall to .23 of their level at the start, for the batch alone."""
        rates = np.linspace(1.0, 0.0, T, endpoint=False)
        noise = 1.0 - 0.35 * np.arange(T) / T
        grown = log(power=0.5, learning_rate=0.1 * rates)
        grown = replace(grown, values=grown.values * noise)
        refused = fit(replace(grown, batch_size=None, values=np.sort(grown.values)[::-1]), optimizer="sgd")
        assert "rho" in {found.rule.name for found in refused.checks if found.raised}  # the same norms, and no shift
        result = fit(grown, optimizer="sgd")
        rho = next(found for found in result.checks if found.rule.name == "rho")
        assert rho.value == pytest.approx(0.68, abs=0.08)
        assert not rho.raised
        assert result.shape == "shifted"
        inspection = inspect(grown)
        assert inspection.to_dict()["decision"] == "shifted"
        seen = [found for found in inspection.checks if found.rule.name == "rho"]
        assert [(found.value, found.raised) for found in seen] == 2 * [(pytest.approx(rho.value, rel=0.01), False)]

    def test_inspect_lists_them(self, run, make_log):
        norms = log()
        path = make_log(step=norms.steps, grad_norm=norms.values, batch_size=norms.batch_size.astype(int))
        data = json.loads(run("inspect", path, "--json").stdout)
        (shift,) = data["level_shifts"]
        assert shift == {"step": 1200, "factor": pytest.approx(8**-0.25, rel=0.03), "cause": "batch size"}
        assert re.search(
            r"^shifts +x 0\.5\d+ at update 1,200 \(batch size\)", run("inspect", path).stdout, re.MULTILINE
        )
        plain = make_log(name="plain.csv", step=norms.steps[:500], grad_norm=norms.values[:500])
        assert json.loads(run("inspect", plain, "--json").stdout)["level_shifts"] == []
        assert re.search(r"^shifts +none$", run("inspect", plain).stdout, re.MULTILINE)

    def test_inspect_names_what_it_does_not_know(self, run, make_log):
        norms = log()
        values = norms.values * np.where(np.arange(T) < 600, 1.0, 2.0)
        path = make_log(step=norms.steps, grad_norm=values, batch_size=norms.batch_size)
        first, second = json.loads(run("inspect", path, "--json").stdout)["level_shifts"]
        assert (first["cause"], second["cause"]) == ("unknown", "batch size")
        assert first["factor"] == pytest.approx(2.0, rel=0.1)
        assert "(cause unknown); x 0." in run("inspect", path).stdout

    @pytest.mark.parametrize("scale", [1e-300, 1e300])
    def test_units_do_not_matter(self, scale):
        one, other = log(), log()
        other = replace(other, values=other.values * scale)
        (plain,), (scaled,) = shifts_of(one), shifts_of(other)
        assert (scaled.step, scaled.factor) == (plain.step, pytest.approx(plain.factor, rel=1e-9))
        level = without_shifts(other, (scaled,)).values
        np.testing.assert_allclose(level / scale, without_shifts(one, (plain,)).values, rtol=1e-9)

    def test_norms_that_are_missing_around_the_change(self):
        norms = log()
        values = norms.values.copy()
        values[1150:1250] = np.nan
        values[300:400] = 0.0  # dropped as well
        thinned = GradientNorms.from_values(values, batch_size=norms.batch_size)
        assert dict(thinned.dropped) == {"non-finite": 100, "zero": 100}
        (shift,) = shifts_of(thinned)
        assert (shift.step, shift.cause) == (1200, "batch size")
        assert shift.factor == pytest.approx(8**-0.25, rel=0.05)

    @pytest.mark.parametrize("at", [3, T - 3])
    def test_too_few_rows_beside_the_change(self, at):
        assert shifts_of(log(at=at)) == ()

    def test_of_every_tenth_norm(self):
        norms = log()
        thin = GradientNorms.from_values(norms.values[9::10], norms.steps[9::10], batch_size=norms.batch_size)
        (shift,) = shifts_of(thin)
        assert (shift.step, shift.cause) == (1200, "batch size")
        assert shift.factor == pytest.approx(8**-0.25, rel=0.1)

    def test_published_knows_nothing_of_them(self):
        plain = replace(log(), batch_size=None)
        assert fit(log(), published=True).refined == fit(plain, published=True).refined


@pytest.mark.parametrize(
    "values",
    [
        np.full(300, 1e300),
        np.full(300, 1e-300),
        np.geomspace(1e-300, 1e300, 300),
        np.tile([1.0, 2.0], 150),
        np.r_[np.full(150, 1e-300), np.full(150, 1e300)],
        np.r_[np.full(299, 1.0), 1e300],
        np.repeat([1.0, 1.0000001], 150),
    ],
)
def test_odd_logs_have_finite_levels(values):
    for shift in level_shifts(values, np.arange(300), 300):
        assert 0.0 < shift.factor < np.inf
    norms = GradientNorms.from_values(values, batch_size=np.repeat([1.0, 1e15], 150))
    assert np.isfinite(without_shifts(norms, shifts_of(norms)).values).all()
    assert np.isfinite(fit(norms, optimizer="sgd").recommended.multiplier).all()


@pytest.mark.parametrize("norms", [[1e-300, 1e300], [1.0, 1.0], [1.0, 2.0, 1.0]])
def test_a_few_rows_have_no_shifts(norms):
    short = GradientNorms.from_values(norms, loss=norms, batch_size=np.geomspace(1.0, 1e15, len(norms)))
    assert shifts_of(short) == shifts_of_losses(short) == ()
    assert np.isfinite(fit(short).recommended.multiplier).all()


@pytest.mark.parametrize("loss", [np.full(300, np.nan), np.zeros(300), np.tile([1e-300, 1e300], 150), -np.ones(300)])
def test_odd_losses_have_none(loss):
    norms = GradientNorms.from_values(np.ones(300), loss=loss)
    assert shifts_of_losses(norms) == ()
