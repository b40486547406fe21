"""The batch size of every update: from a column of its own, from samples or tokens, and when there is none."""

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


def test_recommended_follows_it_and_says_so(make_log):
    norms = NORMS * (16.0 / SIZES) ** 0.4
    result = fit(make_log(step=STEPS, grad_norm=norms, batch_size=SIZES), optimizer="sgd")
    assert (result.shape, result.choice.spoke) == ("shifted", "noise")
    slope = -np.diff(result.recommended.multiplier)
    assert slope[300] > 3.0 * slope[100] > 0.0  # the rate is kept for where there is less noise


def test_it_has_the_length_of_the_run():
    with pytest.raises(RefineError, match="batch_size"):
        GradientNorms.from_values([1.0, 2.0], batch_size=[8.0, 8.0, 8.0])
    with pytest.raises(RefineError, match="batch_size"):
        GradientNorms.from_values([1.0, 2.0], batch_size=[8.0, 0.0])
