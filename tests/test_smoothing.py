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
