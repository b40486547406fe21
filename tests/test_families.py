import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import RefineError, constant, cosine, from_name, linear
from refine.families import FAMILIES, with_warmup


def run_in_torch(scheduler_of, updates):
    """Learning rate of every update under one of torch's own schedulers, base 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_that_of_torch():
    expected = run_in_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50), 50)
    assert_allclose(cosine(50).multiplier, expected, rtol=1e-12)


def test_linear_is_that_of_torch():
    expected = run_in_torch(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=1e-300, total_iters=50), 50
    )
    assert_allclose(linear(50).multiplier, expected, rtol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(1, 0), (1, 1), (10, 0), (10, 1), (10, 4), (10, 10)])
def test_warmup_rises_in_a_line_to_a_peak_of_1_and_no_update_is_wasted(name, total_steps, warmup_steps):
    h = FAMILIES[name](total_steps, warmup_steps=warmup_steps).multiplier
    assert h.size == total_steps
    assert h.min() > 0
    assert_allclose(h[:warmup_steps], np.arange(1, warmup_steps + 1) / max(warmup_steps, 1), rtol=1e-12)
    assert np.all(np.diff(h[max(warmup_steps - 1, 0) :]) <= 0)


def test_closed_forms_after_the_warmup():
    t = np.arange(9, 100)
    u = (t - 9) / 91
    assert_allclose(linear(100, warmup_steps=10).multiplier[9:], 1 - u, rtol=1e-12)
    assert_allclose(
        cosine(100, warmup_steps=10).multiplier[9:], [(1 + math.cos(math.pi * x)) / 2 for x in u], rtol=1e-12
    )
    assert constant(100, warmup_steps=10).multiplier[9:].tolist() == [1.0] * 91


def test_names():
    assert from_name("linear", 10) == linear(10)
    assert from_name("cosine:warmup_steps=3", 10) == cosine(10, warmup_steps=3)
    assert from_name("constant:warmup_fraction=0.25", 10) == constant(10, warmup_steps=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wsd", "schedule 'wsd' is not a file and not a family; families: constant, cosine, linear"),
        ("linear:warmup=1", "has the parameter 'warmup=1'; it must be warmup_steps=INTEGER or warmup_fraction=NUMBER"),
        ("linear:warmup_fraction=2", "warmup_fraction=NUMBER in"),
        ("linear:warmup_fraction=nan", "warmup_fraction=NUMBER in"),
        ("linear:warmup_steps=x", "warmup_steps=INTEGER"),
        ("linear:warmup_steps=-1", "warmup_steps is -1; it must be an integer >= 0"),
        ("linear:warmup_steps=11", "warmup_steps is 11; it must not exceed total_steps, 10: shorten the warmup"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(RefineError, match=message):
        from_name(name, 10)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60), st.integers(0, 80))
def test_a_warmup_floor_caps_the_start_and_nothing_else(values, warmup_steps):
    h = np.array(values) / max(values)
    w = min(warmup_steps, h.size)
    floored = with_warmup(h, warmup_steps)
    assert floored.max() == 1.0
    assert floored.min() > 0
    if w >= 2:
        after = floored[w - 1 :] / floored[w - 1]
        assert_allclose(after, h[w - 1 :] / h[w - 1], rtol=1e-12)
        assert np.all(floored[:w] <= floored[w - 1] * np.arange(1, w + 1) / w * (1 + 1e-12))
    else:
        assert np.array_equal(floored, h)


def test_a_warmup_floor_on_linear_decay_is_linear_with_warmup():
    assert_allclose(with_warmup(linear(100).multiplier, 10), linear(100, warmup_steps=10).multiplier, rtol=1e-12)
