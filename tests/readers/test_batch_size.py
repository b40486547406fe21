"""The batch size of every update: from a column of its own, from samples or tokens, and when there is none."""

from pathlib import Path

import numpy as np
import pytest

from refine import RefineError, fit, read_norms
from refine.norms import GradientNorms

T = 400
STEPS = np.arange(1, T + 1)
NORMS = 2.0 + 0.1 * np.sin(STEPS)
SIZES = np.where(STEPS <= 240, 16, 128)


def sizes(make_log, rows=slice(None), **columns):
    columns = {name: np.asarray(values)[rows] for name, values in columns.items()}
    return read_norms(make_log(step=STEPS[rows], grad_norm=NORMS[rows], **columns)).batch_size


@pytest.mark.parametrize("name", ["batch_size", "global_batch_size", "train/batch_size"])
def test_a_column_that_changes(make_log, name):
    np.testing.assert_array_equal(sizes(make_log, **{name: SIZES}), SIZES)


@pytest.mark.parametrize("name", ["tokens", "consumed_samples", "num_tokens"])
def test_what_is_counted_jitters(make_log, name):
    """Documents are of all lengths: within 10 % a size is that of its level."""
    seen = np.cumsum(np.round(1000 * SIZES * np.random.default_rng(0).uniform(0.98, 1.02, T)))
    found = sizes(make_log, **{name: seen})
    assert np.unique(found).size == 2
    np.testing.assert_allclose(found, 1000 * SIZES, rtol=0.02)


def test_a_thinned_log_tells_of_the_updates_before_its_rows(make_log):
    found = sizes(make_log, slice(9, None, 10), batch_size=SIZES)
    np.testing.assert_array_equal(found, SIZES)


@pytest.mark.parametrize(
    "values",
    [
        np.full(T, 64),
        np.where(STEPS % 2, 60, 64),  # as the last batch of an epoch
        np.where(STEPS % 2, 16, 64),  # from row to row: of microbatches, or of two datasets
        np.zeros(T, dtype=int),
    ],
    ids=["constant", "nearly", "row to row", "zero"],
)
def test_none_where_it_does_not_change_now_and_then(make_log, values):
    assert sizes(make_log, batch_size=values) is None
    assert sizes(make_log) is None


def test_a_constant_column_gives_way_to_what_is_counted(make_log):
    """The micro batch beside the tokens."""
    np.testing.assert_array_equal(sizes(make_log, batch_size=np.full(T, 8), tokens=np.cumsum(SIZES)), SIZES)


def test_a_count_that_starts_anew_tells_nothing(make_log):
    seen = np.cumsum(SIZES)
    seen[300:] -= seen[299]
    assert sizes(make_log, tokens=seen) is None


def test_a_ramp_is_known_and_has_no_levels(make_log):
    assert sizes(make_log, batch_size=np.round(16 * 1.2 ** (STEPS // 10))) is None  # more than 20 changes
    found = sizes(make_log, batch_size=np.round(16 * 1.01**STEPS))
    assert found is not None
    assert np.all(np.diff(found) >= 0.0)


def test_steps_from_0_and_rows_without_a_size(make_log):
    known = SIZES.astype(float)
    known[100:150] = np.nan
    log = make_log(step=STEPS - 1, grad_norm=NORMS, batch_size=known)
    np.testing.assert_array_equal(read_norms(log).batch_size, SIZES)


def test_behind_the_last_row_it_stays(make_log):
    norms = read_norms(make_log(step=STEPS, grad_norm=NORMS, batch_size=SIZES), logged_steps=2 * T)
    assert norms.batch_size.shape == (2 * T,)
    np.testing.assert_array_equal(norms.batch_size, np.append(SIZES, np.full(T, 128)))


def test_recommended_follows_it_and_says_so(make_log):
    norms = NORMS * (16.0 / SIZES) ** 0.4
    result = fit(make_log(step=STEPS, grad_norm=norms, batch_size=SIZES), optimizer="sgd")
    assert (result.shape, result.choice.spoke) == ("shifted", "noise")
    slope = -np.diff(result.recommended.multiplier)
    assert slope[300] > 3.0 * slope[100] > 0.0  # the rate is kept for where there is less noise


def test_given_with_the_norms():
    given = SIZES.astype(float)
    norms = GradientNorms.from_values(NORMS, batch_size=given)
    given[:] = 1.0
    np.testing.assert_array_equal(norms.batch_size, SIZES)
    assert not norms.batch_size.flags.writeable
    assert GradientNorms.from_values(NORMS, batch_size=given).batch_size is None  # a constant one says nothing
    assert GradientNorms.from_values(NORMS).batch_size is None


def test_it_is_named_and_converted(make_log, run):
    path = make_log(step=STEPS, grad_norm=NORMS, global_batch_size=SIZES)
    assert read_norms(path).source.columns["batch size"] == "global_batch_size"
    assert 'batch size "global_batch_size"' in run("inspect", path).stdout
    run("convert", path, "-o", "tidy.csv")
    np.testing.assert_array_equal(read_norms("tidy.csv").batch_size, SIZES)
    run("convert", make_log(name="plain.csv", step=STEPS, grad_norm=NORMS), "-o", "plain_tidy.csv")
    assert "batch_size" not in Path("plain_tidy.csv").read_text()


def test_it_has_the_length_of_the_run():
    with pytest.raises(RefineError, match="batch_size"):
        GradientNorms.from_values([1.0, 2.0], batch_size=[8.0, 8.0, 8.0])
    with pytest.raises(RefineError, match="batch_size"):
        GradientNorms.from_values([1.0, 2.0], batch_size=[8.0, 0.0])
    for wrong in (np.nan, np.inf, -8.0):
        with pytest.raises(RefineError, match="batch_size"):
            GradientNorms.from_values([1.0, 2.0], batch_size=[8.0, wrong])
