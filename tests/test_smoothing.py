import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from refine import RefineError
from refine.smoothing import median_width, smooth

series = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=60)


def by_hand(values, half, left):
    """Median over explicit windows."""
    n = len(values)

    def at(i):
        if i < 0:
            return values[-i] if left == "reflect" else values[0]
        return values[2 * (n - 1) - i] if i >= n else values[i]

    return [float(np.median([at(j) for j in range(i - half, i + half + 1)])) for i in range(n)]


@given(series, st.floats(0.0, 1.0), st.sampled_from(["reflect", "nearest"]))
def test_equals_a_median_by_hand(values, fraction, left):
    half = median_width(len(values), fraction) // 2
    assert smooth(values, fraction=fraction, left=left).tolist() == by_hand(values, half, left)


@given(series, st.floats(0.05, 1.0))
def test_nearest_is_the_published_expression(values, fraction):
    # theory.md section 2, with the padding cut to what reflection allows.
    width = median_width(len(values), fraction)
    pad = min(2 * width, len(values) - 1)
    published = median_filter(np.pad(values, (0, pad), mode="reflect"), size=width, mode="nearest")[: len(values)]
    assert smooth(values, fraction=fraction, left="nearest").tolist() == published.tolist()


def test_width_is_odd_and_as_published():
    assert [median_width(n, 0.1) for n in (1, 19, 20, 39, 40, 64565)] == [1, 1, 3, 3, 5, 6457]


def test_the_first_value_decides_only_with_nearest_padding():
    values = np.ones(100)
    values[0] = 1000.0
    assert smooth(values)[0] == 1.0
    assert smooth(values, left="nearest")[0] == 1000.0


@pytest.mark.parametrize("kind", ["read-only", "strided", "float32", "list"])
def test_any_array_in_and_never_mutated(kind):
    base = np.linspace(1.0, 2.0, 40)
    array = {
        "read-only": base,
        "strided": np.repeat(base, 2)[::2],
        "float32": base.astype(np.float32),
        "list": list(base),
    }
    given_values = array[kind]
    if kind == "read-only":
        base.flags.writeable = False
    before = np.array(given_values)
    result = smooth(given_values)
    assert result.dtype == np.float64
    assert np.array_equal(before, given_values)
    result[0] = 0.0  # a copy of our own
    assert np.array_equal(before, given_values)


def test_a_fraction_out_of_range_is_refused():
    with pytest.raises(RefineError, match=r"^smoothing is 2; it must lie in \[0, 1\], a fraction of the points"):
        smooth([1.0, 2.0], fraction=2)


def by_hand_over_updates(values, updates, fraction):
    """Every value as often as it stands for updates, at most a fifth of the window, on an axis of quarters of a gap."""
    gaps = np.diff(updates)
    cells = [gaps[0], *((gaps[:-1] + gaps[1:]) / 2), gaps[-1]]
    span, unit = updates[-1] - updates[0], gaps.min() / 4
    most = max(fraction * span / 5, unit)
    times = [max(1, round(min(cell, most) / unit)) for cell in cells]
    times = [1] * len(times) if len(set(times)) == 1 else times  # all as often: the values themselves
    axis = [value for value, count in zip(values, times, strict=True) for _ in range(count)]
    centres = np.cumsum(times) - times + np.array(times) // 2
    return [by_hand(axis, median_width(len(axis), fraction) // 2, "reflect")[c] for c in centres]


class TestOverUpdates:
    @given(series, st.floats(0.0, 1.0), st.integers(1, 50), st.integers(0, 9))
    def test_evenly_spaced_values_give_the_same_with_and_without(self, values, fraction, stride, start):
        updates = start + stride * np.arange(len(values))
        assert smooth(values, updates, fraction=fraction).tolist() == smooth(values, fraction=fraction).tolist()

    @given(st.lists(st.tuples(st.floats(0.01, 100.0), st.integers(1, 9)), min_size=3, max_size=12), st.floats(0.0, 1.0))
    def test_equals_a_median_by_hand(self, rows, fraction):
        values, gaps = zip(*rows, strict=True)
        updates = np.cumsum(gaps)
        expected = by_hand_over_updates(values, updates, fraction)
        assert smooth(values, updates, fraction=fraction).tolist() == expected

    def test_rows_that_thin_out_are_smoothed_over_as_many_updates(self):
        """A step in the level: by updates the median changes over where it is; a window of rows reaches far over it."""
        kept = np.concatenate([np.arange(1000), np.arange(1000, 2000, 10)])
        level = np.where(kept < 980, 1.0, 2.0)
        by_updates, by_rows = smooth(level, kept), smooth(level)
        assert np.array_equal(by_updates[kept < 970], np.ones(970))
        assert np.all(by_updates[kept >= 990] == 2.0)
        ramp = kept / 2000.0
        assert np.abs(smooth(ramp, kept) - ramp)[100:-11].max() < 0.06
        assert np.array_equal(by_rows == 2.0, level == 2.0)  # a median of rows sees no time at all

    def test_no_value_beside_a_gap_decides_alone(self):
        """It would stand for half of the gap, or at the end for all of it: most of the window.

        Of a gap of a tenth of the run, above which a check advises against the refined schedule.
        """
        for gone in (range(900, 1000), range(400, 500), range(1, 100)):
            updates = np.delete(np.arange(1001), gone)
            for place in (np.flatnonzero(np.diff(updates) > 1)[0], np.flatnonzero(np.diff(updates) > 1)[0] + 1):
                values = np.ones(updates.size)
                values[place] = 50.0
                assert smooth(values, updates).tolist() == [1.0] * updates.size

    @pytest.mark.parametrize("updates", [[0, 5], [0, 1, 5_000_000], [0, 1, 2, 50_000_000]])
    def test_few_values_and_gaps_without_measure(self, updates):
        values = np.arange(1.0, len(updates) + 1)
        found = smooth(values, updates, fraction=0.5)
        assert found.shape == values.shape
        assert np.all(np.isin(found, values))

    def test_a_long_log_that_thins_out_takes_little(self):
        updates = np.concatenate([np.arange(100_000), np.arange(100_000, 10**7, 100)])
        start = time.perf_counter()
        smooth(np.ones(updates.size), updates)
        assert time.perf_counter() - start < 3.0

    def test_neither_is_changed(self):
        values, updates = np.array([3.0, 1.0, 2.0, 5.0]), np.array([1, 2, 3, 9])
        values.flags.writeable = updates.flags.writeable = False
        smooth(values, updates, fraction=0.5)
