import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine import GradientNorms, RefineError
from refine.hygiene import clean, match

nan, inf = float("nan"), float("inf")
rows = st.lists(
    st.tuples(
        st.one_of(st.integers(-2, 12), st.just(nan)), st.sampled_from([nan, inf, -inf, 0.0, -1.0, 0.5, 2.0, 7.0])
    ),
    max_size=30,
)


@given(rows)
def test_policy_by_a_plain_loop(raw):
    """Every row is used or counted once; the last good row of a step wins."""
    steps, values = (np.array([r[i] for r in raw], dtype=float) for i in (0, 1))
    kept, counts = {}, {}
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
            reason = "superseded" if step in kept else None
            kept[step] = value
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    if counts.get("superseded", 0) > len(kept):
        with pytest.raises(RefineError, match="repeat a step of another row"):
            clean(steps, values)
        return
    cleaned = clean(steps, values)
    assert cleaned.steps.tolist() == sorted(kept)
    assert cleaned.values.tolist() == [kept[s] for s in sorted(kept)]
    assert cleaned.dropped == counts


def test_rows_without_a_norm_are_told_from_logged_nans():
    cleaned = clean(np.array([1.0, 2.0, 3.0]), np.array([nan, nan, 1.0]), np.array([True, False, False]))
    assert cleaned.dropped == {"without a norm": 1, "non-finite": 1}


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
    other_metric = np.array([True, False, False])
    norms = GradientNorms.from_values([nan, 1.0, 1.0], [0, 10, 20], empty=other_metric)
    assert norms.total_steps == 20


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
        ("norms", None, {}, "norms and steps must be arrays of numbers"),
        ([1.0] * 5, [1, 2, 1, 2, 1], {}, "3 of 5 rows repeat a step of another row; a step column that starts anew"),
    ],
)
def test_unusable_input_is_refused(values, steps, options, message):
    with pytest.raises(RefineError, match=message):
        GradientNorms.from_values(values, steps, **options)


def test_the_constructor_checks_and_does_not_clean():
    for values, steps, message in (
        ([1.0, 0.0], [1, 2], "finite and positive"),
        ([1.0, 1.0], [2, 1], "increase strictly"),
        ([1.0, 1.0], [1.5, 2.5], "they must be integers"),
    ):
        with pytest.raises(RefineError, match=message):
            GradientNorms(steps, values, "l2", 2)
