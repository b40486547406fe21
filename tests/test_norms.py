import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine import GradientNorms, RefineError, linear
from refine.hygiene import clean, clipping_plateau, match, overflow_marks
from refine.smoothing import smooth

nan, inf = float("nan"), float("inf")
rows = st.lists(
    st.tuples(
        st.one_of(st.integers(-2, 12), st.just(nan)), st.sampled_from([nan, inf, -inf, 0.0, -1.0, 0.5, 2.0, 7.0])
    ),
    max_size=30,
)


@given(rows)
def test_policy_by_a_plain_loop(raw):
    """Every row is used or counted once; the last good row of a step wins, and a resumed run what it repeats."""
    steps, values = (np.array([r[i] for r in raw], dtype=float) for i in (0, 1))
    good, counts = [], {}
    for step, value in raw:
        if np.isnan(step):
            reason = "without a step"
        elif step < 0:
            reason = "negative step"
        elif not np.isfinite(value):
            reason = "non-finite"
        elif value <= 0:
            reason = "zero" if value == 0 else "negative"
        else:
            reason = None
            good.append((step, value))
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    if counts.get("negative", 0) > 5:
        with pytest.raises(RefineError, match="norms are negative"):
            clean(steps, values)
        return
    kept = {}
    forward = sorted(b[0] - a[0] for a, b in itertools.pairwise(good) if b[0] > a[0])
    usual = int(np.median(forward)) if forward else None
    for place, (step, value) in enumerate(good):
        if usual and place and good[place - 1][0] - step >= 2 * usual:
            end = place
            while end + 1 < len(good) and good[end + 1][0] >= good[end][0]:
                end += 1
            for older in [s for s in kept if step <= s <= good[end][0]]:
                del kept[older]
        kept[step] = value
    superseded = len(good) - len(kept)
    if 2 * superseded > len(good):
        with pytest.raises(RefineError, match="repeat a step of another row"):
            clean(steps, values)
        return
    if superseded:
        counts["superseded"] = superseded
    cleaned = clean(steps, values)
    assert cleaned.steps.tolist() == sorted(kept)
    assert cleaned.values.tolist() == [kept[s] for s in sorted(kept)]
    assert cleaned.dropped == counts
    assert cleaned.out_of_order == sum(b[0] < a[0] for a, b in itertools.pairwise(good))


def test_a_resumed_run_supersedes_what_it_repeats_also_at_another_stride():
    first = [(t, 1.0 + t / 100) for t in range(1, 31)]
    resumed = [(t, 5.0 + t / 100) for t in range(20, 61, 10)]
    steps, values = (np.array(column, dtype=float) for column in zip(*first, *resumed, strict=True))
    cleaned = clean(steps, values)
    assert cleaned.steps.tolist() == [*range(1, 20), 20, 30, 40, 50, 60]
    assert cleaned.values[-5:].tolist() == [v for _, v in resumed]
    assert (cleaned.dropped, cleaned.out_of_order) == ({"superseded": 11}, 1)


def test_rows_a_little_out_of_order_are_sorted_and_kept():
    cleaned = clean(np.array([1.0, 2.0, 4.0, 3.0, 5.0]), np.array([1.0, 2.0, 4.0, 3.0, 5.0]))
    assert cleaned.values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert (cleaned.dropped, cleaned.out_of_order) == ({}, 1)


def test_a_shuffled_log_is_sorted_and_loses_nothing():
    steps = np.random.default_rng(0).permutation(1000) + 1.0
    cleaned = clean(steps, steps)
    assert cleaned.values.tolist() == list(range(1, 1001))
    assert cleaned.dropped == {}


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_deepspeed_marks_are_dropped(groups):
    values = np.random.default_rng(0).lognormal(size=100)
    values[[10, 11, 12, 13, 50, 51, 52, 80]] = np.sqrt(groups)
    assert overflow_marks(values).nonzero()[0].tolist() == [10, 11, 12, 13, 50, 51, 52]
    assert clean(np.arange(1.0, 101), values).dropped == {"overflow mark": 7}


def test_irrational_marks_are_marks_in_short_and_rounded_logs_too():
    values = np.random.default_rng(0).lognormal(size=22).round(2)
    values[[3, 4]] = values[2]
    values[10:14] = np.sqrt(2)
    assert overflow_marks(values).nonzero()[0].tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 50,
        [1.0] * 40 + [2.0] * 60,
        [1.0] * 20 + [0.5] * 60,
        [*np.geomspace(1, 2, 19), 1.0, 1.0, 1.0],
        [0.3, 1.0, 0.7, 1.0, 0.4, 0.5],
    ],
)
def test_norms_that_only_look_like_marks_stay(values):
    assert not overflow_marks(np.array(values)).any()


def test_norms_logged_after_clipping_are_told_by_their_plateau():
    norms = np.random.default_rng(0).lognormal(size=400)
    assert clipping_plateau(norms) is None
    for threshold in (0.25, 1.0, 1.5):
        clipped = norms * np.minimum(1.0, threshold / (norms + 1e-6))
        found = clipping_plateau(clipped)
        assert found.value == threshold
        assert found.share == pytest.approx(np.mean(norms > 0.999 * threshold), abs=0.02)
        assert overflow_marks(clipped).sum() == 0
    assert clipping_plateau(np.minimum(norms, 1.2345)) is None  # nobody clips there
    assert clipping_plateau(np.ones(100)).share == 1.0  # all clipped
    assert clipping_plateau(np.append(np.ones(99), 0.7)).value == 1.0


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("digits", [3, 16])
def test_light_clipping_is_told_from_the_tail_of_rounded_norms(threshold, digits):
    norms = np.random.default_rng(0).normal(1.0, 0.15, size=2000)
    norms *= threshold / np.quantile(norms, 0.9)
    assert clipping_plateau(np.minimum(norms, threshold).round(digits)).value == threshold
    for decimals in (1, 2, 3, 16):
        assert clipping_plateau(norms.round(decimals)) is None
        assert clipping_plateau((0.3 + 0.4 * norms).round(decimals)) is None


def test_a_column_of_negative_numbers_is_no_norm():
    values = np.where(np.arange(100) < 6, -0.5, 1.0)
    with pytest.raises(RefineError, match="6 of 100 norms are negative; a norm never is"):
        clean(np.arange(1.0, 101), values)


@pytest.mark.parametrize(
    ("steps", "total", "first_update", "stride"),
    [
        ([1, 2, 3], 3, 0, 1),
        ([0, 1, 2], 3, 0, 1),
        ([0, 10, 20], 30, 0, 10),
        ([10, 20, 30], 30, 9, 10),
        ([5, 10, 30], 30, 4, 5),
    ],
)
def test_the_logged_run_ends_at_its_last_step_plus_the_stride_if_it_starts_at_0(steps, total, first_update, stride):
    norms = GradientNorms.from_values([1.0] * 3, steps)
    assert norms.total_steps == total
    assert norms.updates[0] == first_update
    assert norms.stride == stride
    assert GradientNorms.from_values([1.0] * 3, steps, logged_steps=99).total_steps == 99


def test_a_dropped_row_of_step_0_still_tells_that_the_log_counts_from_0():
    norms = GradientNorms.from_values([nan, 1.0, 1.0, 1.0], [0, 10, 20, 30])
    assert norms.total_steps == 40
    assert norms.updates.tolist() == [10, 20, 30]


def test_every_stands_in_for_steps():
    norms = GradientNorms.from_values([1.0, 2.0, 3.0], every=50)
    assert norms.steps.tolist() == [50, 100, 150]
    assert norms.total_steps == 150


def test_columns_are_interpolated_at_the_fraction_of_training():
    norms = GradientNorms.from_values([1.0, 3.0], [1, 3])
    assert norms.on_updates(norms.values, 3).tolist() == [1.0, 2.0, 3.0]
    assert norms.on_updates(norms.values, 1).tolist() == [2.0]
    assert norms.on_updates(norms.values, 6).tolist() == pytest.approx([1.0, 1.25, 1.75, 2.25, 2.75, 3.0])
    assert norms.on_updates(np.array([nan, 5.0]), 3).tolist() == [5.0] * 3


def test_the_longest_gap_counts_start_and_end():
    assert GradientNorms.from_values([1.0] * 3, [1, 2, 3]).longest_gap == 0
    assert GradientNorms.from_values([1.0] * 2, [1, 11]).longest_gap == 9
    assert GradientNorms.from_values([1.0] * 2, [81, 91], logged_steps=100).longest_gap == 80
    assert GradientNorms.from_values([1.0] * 2, [1, 2], logged_steps=100).longest_gap == 98


def test_other_columns_come_from_any_row_of_the_step():
    steps = np.array([1.0, 1.0, 2.0, 2.0, 3.0])
    assert match(steps, [0.1, nan, nan, 0.2, nan], np.array([1, 2, 3])).tolist() == pytest.approx(
        [0.1, 0.2, nan], nan_ok=True
    )
    assert match(steps, [nan] * 5, np.array([1])) is None
    assert match(steps, None, np.array([1])) is None
    norms = GradientNorms.from_values([1.0, nan, 2.0, nan, 3.0], steps, learning_rate=[nan, 0.1, nan, 0.2, nan])
    assert norms.learning_rate.tolist() == pytest.approx([0.1, 0.2, nan], nan_ok=True)


def test_arrays_are_copied_and_read_only():
    values = np.array([1.0, 2.0])
    norms = GradientNorms.from_values(values)
    values[0] = 9.0
    assert norms.values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        norms.values[0] = 0.0


@pytest.mark.parametrize(
    ("values", "steps", "options", "message"),
    [
        ([1.0], None, {}, "the number of usable gradient norms is 1; at least 2 are needed"),
        ([nan, nan], None, {}, "the number of usable gradient norms is 0"),
        ([1.0, 1.0], [0.5, 1], {}, "a step is 0.5; steps count optimizer updates"),
        ([1.0, 1.0], [1, 1e30], {}, r"a step is 1e\+30"),
        ([1.0, 1.0], [1, 10**9], {}, "is 1000000000; more than 50000000 are not optimizer updates"),
        ([1.0, 1.0], [1, 5], {"logged_steps": 4}, "the logged run has 4 steps and its log goes to step 5"),
        ([1.0, 1.0], [1, 2, 3], {}, "both must be"),
        ([1.0, 1.0], None, {"kind": "l3"}, "the norm kind is 'l3'; it must be one of l2, l1, dual"),
        ([1.0, 1.0], None, {"loss": [1.0]}, "both must be"),
        ([1.0, 1.0], None, {"every": 0}, "every is 0; it must be an integer >= 1"),
        ([1.0, 1.0], None, {"logged_steps": "9"}, "logged_steps is '9'; it must be an integer >= 1"),
        ("norms", None, {}, "norms must be an array of numbers: could not convert string to float"),
        ([1.0, 1.0], ["a", "b"], {}, "steps must be an array of numbers: could not convert string to float"),
        ([1.0 + 0j, 1.0], None, {}, "norms must be an array of numbers: their type is complex128"),
        ([True, True], None, {}, "norms must be an array of numbers: their type is bool"),
        (
            np.array(["2024-01-01"] * 2, "M8[s]"),
            None,
            {},
            "norms must be an array of numbers: their type is datetime64",
        ),
        ([10**400, 1], None, {}, "norms must be an array of numbers: int too large"),
        (
            [[1.0, 1.0]] * 3,
            None,
            {},
            r"norms have shape \(3, 2\); they must be \(n,\), one a logged update: give",
        ),
        (3.0, None, {}, r"norms have shape \(\); they must be \(n,\)"),
        (linear(9), None, {}, "norms is a Schedule; it must be the gradient norms of a run: read_norms reads a log"),
        ([1.0] * 5, [1, 2, 1, 2, 1], {}, "3 of 5 rows repeat a step of another row; a step column that starts anew"),
    ],
)
def test_unusable_input_is_refused(values, steps, options, message):
    with pytest.raises(RefineError, match=message):
        GradientNorms.from_values(values, steps, **options)


def test_masked_norms_are_missing():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], mask=[False, True, False])
    norms = GradientNorms.from_values(masked)
    assert norms.steps.tolist() == [1, 3]
    assert dict(norms.dropped) == {"non-finite": 1}


@pytest.mark.parametrize(
    ("steps", "total", "words"),
    [
        (range(1, 41), None, "every step"),
        (range(40), None, "every step"),
        (range(1, 41), 50, "every step of a part"),
        (range(11, 51), None, "every step of a part"),
        (range(10, 401, 10), None, "every 10 steps"),
        ([1, 2, 3, 5, 6, 7], None, "1 to 2 steps apart"),
        ([10, 20, 30, 41, 50], None, "usually every 10 steps"),
        ([1, 2, 3, 5000], None, "1 to 4,997 steps apart"),
    ],
)
def test_spacing_in_words(steps, total, words):
    steps = np.array(steps)
    assert GradientNorms.from_values(np.ones(steps.size), steps, logged_steps=total).spacing == words


def test_smoothed_is_the_median_over_a_share_of_the_updates():
    rng = np.random.default_rng(0)
    even = GradientNorms.from_values(rng.lognormal(size=200), np.arange(5, 1001, 5))
    assert np.array_equal(even.smoothed(0.2), smooth(even.values, fraction=0.2))
    steps = np.concatenate([np.arange(1, 101), np.arange(110, 1001, 10)])
    thinned = GradientNorms.from_values(rng.lognormal(size=190), steps)
    assert np.array_equal(thinned.smoothed(), smooth(thinned.values, steps))
    assert not np.array_equal(thinned.smoothed(), smooth(thinned.values))


def test_the_constructor_checks_and_does_not_clean():
    for values, steps, message in (
        ([1.0, 0.0], [1, 2], "finite and positive"),
        ([1.0, 1.0], [2, 1], "increase strictly"),
        ([1.0, 1.0], [1.5, 2.5], "they must be integers"),
    ):
        with pytest.raises(RefineError, match=message):
            GradientNorms(steps, values, "l2", 2)
