import itertools

import numpy as np
import pytest
from scipy import integrate, optimize

from refine.families import cosine, linear, wsd
from refine.loss_laws import LAWS, Blocks, Exponent, View, cut

STEPS = 3000
STAIRS = np.repeat([0.25, 1.0, 0.6, 0.2, 0.05], STEPS // 5) * 2e-3
AT = np.array([200.0, 777.0, 1800.0, 2999.0, 3000.0])


def view(rates=STAIRS, at=AT, noise=None, **options):
    return View.of(cut(rates, rates.max(), at, noise, **options), at)


def medians(name):
    return {exponent.name: exponent.value(0.0) for exponent in LAWS[name].exponents}


def each_update(rates=STAIRS, at=AT, noise=None):
    """The same schedule with a block an update: the sums over steps."""
    level = np.ones(rates.size) if noise is None else noise
    peak = int(np.argmax(rates))
    return View.of(Blocks(np.arange(rates.size + 1.0), rates / rates.max(), level, peak), at)


@pytest.mark.parametrize("name", LAWS)
def test_blocks_are_sums_over_updates(name):
    found = LAWS[name].term(view(), medians(name), STEPS)
    assert found == pytest.approx(LAWS[name].term(each_update(), medians(name), STEPS), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(
    "schedule", [linear(20_000, warmup_steps=300), cosine(20_000), wsd(20_000, shape="sqrt"), wsd(20_000)]
)
def test_blocks_of_curves_are_close_to_sums_over_updates(name, schedule):
    at = np.array([2_500.0, 9_000.0, 18_001.0, 19_900.0, 20_000.0])
    found = LAWS[name].term(view(schedule.multiplier, at), medians(name), 20_000)
    right = LAWS[name].term(each_update(schedule.multiplier, at), medians(name), 20_000)
    assert found == pytest.approx(right, rel=2e-3 if LAWS[name].formula[0] != "-" else 2e-2, abs=2e-3)


def remembered(kernel, t, rates, noise=None):
    """The integral of rate^2 times a kernel of the area since, by quadrature over every constant stretch."""
    rates = rates / rates.max()
    noise = np.ones(rates.size) if noise is None else noise
    area = np.concatenate(([0.0], np.cumsum(rates)))
    done, total = np.interp(t, np.arange(rates.size + 1), area), 0.0
    edges = [0, *(np.flatnonzero(np.diff(rates * noise) != 0) + 1), rates.size]
    for start, end in itertools.pairwise(edges):
        end = min(end, t)
        if start < end:
            h, nu = rates[int(start)], noise[int(start)]
            # u = done - area; d(area) = h dk
            low, high = done - np.interp(end, np.arange(rates.size + 1), area), done - area[int(start)]
            marks = np.unique(np.concatenate(([low], np.geomspace(max(low, 1e-9), high, 40), [high])))
            total += h * nu * sum(integrate.quad(kernel, a, b)[0] for a, b in itertools.pairwise(marks))
    return total


def test_memory_is_the_integral_of_its_kernel():
    x = medians("memory") | {"delta": 0.3}
    right = [remembered(lambda u: x["c"] / (1.0 + x["c"] * u), t, STAIRS) for t in AT]
    progress = np.interp(AT, np.arange(STEPS + 1), np.concatenate(([0.0], np.cumsum((STAIRS / 2e-3) ** x["p"])))) / 5000
    expected = np.log1p(x["s"] * np.array(right)) * progress**-0.3
    assert LAWS["memory"].term(view(), x, 5000.0) == pytest.approx(expected, rel=1e-6)


def test_noise_weights_the_kernel():
    noise = np.where(np.arange(STEPS) < 1234, 1.0, 0.25)
    x = medians("memory-power")
    right = [remembered(lambda u: x["c"] / (1.0 + x["c"] * u), t, STAIRS, noise) for t in AT]
    found = LAWS["memory-power"].term(view(noise=noise), x, STEPS)
    assert found == pytest.approx(np.array(right) ** x["beta"], rel=1e-6)


@pytest.mark.parametrize("kappa", [0.7, 1.0, 1.0 + 1e-8, 1.6])
def test_general_is_the_integral_of_its_kernel(kappa):
    x = medians("general") | {"kappa": kappa, "beta": 1.0}
    right = [remembered(lambda u: (1.0 + x["c"] * u) ** -kappa, t, STAIRS) for t in AT]
    assert LAWS["general"].term(view(), x, STEPS) == pytest.approx(right, rel=1e-6)


def test_bound_power_is_the_least_over_the_last_entry():
    def least(t):
        def bound(log_e):
            e = np.exp(log_e)
            return 0.5 * (e + remembered(lambda u: 1.0 / (u + e), t, STAIRS))

        return optimize.minimize_scalar(bound, bounds=(-10.0, 12.0), method="bounded", options={"xatol": 1e-8}).fun

    assert view().least_bound() == pytest.approx([least(t) for t in AT], rel=1e-6)


def test_two_adds_the_rate_of_the_last_update():
    x = {"a": 3.0, "beta": 1.0}
    rates = np.array([0.25, 1.0, 0.6, 0.05, 0.05])  # of the updates before AT
    assert LAWS["two"].term(view(), x, STEPS) == pytest.approx(3.0 * rates + view().least_bound(), rel=1e-12)


def test_multi_power_and_annealing_are_sums_over_drops():
    rates, x, y = STAIRS / 2e-3, medians("multi-power"), medians("annealing")
    area = np.concatenate(([0.0], np.cumsum(rates)))
    for i, t in enumerate(AT):
        power = anneal = 0.0
        for k in range(1, STEPS):
            if rates[k] < rates[k - 1] and k < t:
                since = np.interp(t, np.arange(STEPS + 1), area) - area[k]
                drop = rates[k - 1] - rates[k]
                power -= drop * (1.0 - (1.0 + x["C"] * rates[k] ** -x["gamma"] * since) ** -x["beta"])
                anneal -= drop * (1.0 - np.exp(-(t - k) / y["tau"]))
        assert LAWS["multi-power"].term(view(), x, STEPS)[i] == pytest.approx(power, rel=1e-6, abs=1e-12)
        assert LAWS["annealing"].term(view(), y, STEPS)[i] == pytest.approx(anneal, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_only_rates_over_the_reference_matter(name):
    doubled = View.of(cut(2.0 * STAIRS, 2.0 * STAIRS.max(), AT), AT)
    assert LAWS[name].term(doubled, medians(name), STEPS) == pytest.approx(
        LAWS[name].term(view(), medians(name), STEPS), rel=1e-12
    )


def test_progress_of_a_constant_rate_is_the_share_of_updates():
    rates = np.full(100, 3e-4)
    assert view(rates, np.array([0.0, 25.0, 100.0])).progress(0.7, 200.0).tolist() == pytest.approx([0.0, 0.125, 0.5])


def test_a_cut_has_few_blocks_and_keeps_the_area():
    rates = np.random.default_rng(0).uniform(0.1, 1.0, 100_000)
    blocks = cut(rates, 1.0, np.array([100_000.0]))
    assert blocks.rates.size < 1_000
    assert float(blocks.rates @ np.diff(blocks.edges)) == pytest.approx(rates.sum(), rel=1e-12)
    assert blocks.edges[[0, -1]].tolist() == [0.0, 100_000.0]
    assert np.all(np.diff(blocks.edges) >= 1.0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_short_schedule_is_cut_at_every_update(steps):
    blocks = cut(np.linspace(1.0, 0.5, steps), 1.0, np.array([float(steps)]))
    assert blocks.edges.tolist() == list(range(steps + 1))


def test_exponents_by_their_priors():
    assert Exponent("c", 60.0, 1.2).value(1.0) == pytest.approx(60.0 * np.exp(1.2))
    assert Exponent("delta", 0.0, 0.08, around_zero=True).value(-2.0) == -0.16
