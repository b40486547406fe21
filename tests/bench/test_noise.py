"""What changes during a run: sizes, wrong labels and texts where they should be, and arms at a multiple of the peak."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from refine.bench.batched import train
from refine.bench.convex import SoftmaxRegression, mislabelled
from refine.bench.methods import CHANGING, METHODS, UNDER_TUNED
from refine.bench.noise import NETWORK_CHANGES, STEADY, TABLE_CHANGES, TEXT_CHANGES, WRONG, Noise
from refine.bench.problems import Optimizer
from refine.bench.suites import CHANGING_TABLES, SUITES

from .test_plan import BEST, finish

X, Y = load_iris(return_X_y=True)
SGD = Optimizer("sgd", "sgd", 0.1, betas=(0.0, 0.0))


def task(noise):
    return SoftmaxRegression(X, Y, noise=noise)


def sizes(noise, steps=10):
    generator = torch.Generator().manual_seed(0)
    made = task(noise)
    return [len(made.batch(generator, step / steps)[0]) for step in range(steps)]


def test_the_batch_is_that_of_the_log():
    noise = TABLE_CHANGES["batch up in stairs"]
    assert sizes(noise) == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128] == noise.sizes(10).tolist()
    assert sizes(TABLE_CHANGES["batch down"]) == [64] * 5 + [8] * 5
    assert sizes(STEADY) == [16] * 10
    assert STEADY.sizes(10) is None


@pytest.mark.parametrize("changes", [TABLE_CHANGES, NETWORK_CHANGES, TEXT_CHANGES])
def test_every_change_starts_with_the_run_and_changes_one_thing(changes):
    for name, noise in changes.items():
        stairs = [noise.batch, noise.wrong, noise.source]
        assert all(not each or each[0][0] == 0.0 for each in stairs)
        assert all(start < 1.0 for each in stairs for start, _ in each)
        assert sum(len(each) > 1 for each in stairs) == (name != "steady"), name


def test_labels_are_wrong_where_they_should_be():
    noise = Noise(wrong=((0.0, 0.0), (0.5, 0.4)))
    made = task(noise)
    clean = {tuple(row.tolist()): int(label) for row, label in zip(made.x, made.y, strict=True)}
    generator = torch.Generator().manual_seed(0)

    def share(done):
        x, y = (torch.cat(part) for part in zip(*(made.batch(generator, done) for _ in range(400)), strict=True))
        return np.mean([clean[tuple(row.tolist())] != label for row, label in zip(x, y.tolist(), strict=True)])

    # A row that stands twice in the data may have two labels.
    assert share(0.2) < 0.02
    assert share(0.7) == pytest.approx(0.4 * 2 / 3, abs=0.03)


def test_a_tenth_is_always_wrong_and_always_the_same():
    one, other, plain = task(STEADY), task(TABLE_CHANGES["batch up"]), SoftmaxRegression(X, Y)
    assert torch.equal(one.y, other.y)
    assert (one.y != plain.y).double().mean().item() == pytest.approx(WRONG * 2 / 3, abs=0.04)
    labels = torch.arange(5)
    assert mislabelled(labels, 0.0, 5, torch.Generator()) is labels


def test_the_error_is_the_share_that_is_classified_wrongly():
    made = SoftmaxRegression(X, Y)
    at_start = made.error(made.stack([0], 1))
    assert at_start.item() == pytest.approx(2 / 3)  # all are the first class
    outcome = train(made, SGD, np.ones((1, 1, 400)), np.array([[0.1]]), [0])[0][0]
    assert outcome.error < 0.1


@pytest.mark.parametrize("half", ["choose", "confirm"])
def test_the_suites_have_eight_tables_all_changes_and_both_optimizers(half):
    suite = SUITES[f"changing-{half}"]
    tables = {problem.name.split(", ")[0] for problem in suite.problems}
    assert len(tables) == 4
    assert tables <= set(CHANGING_TABLES)
    assert len(suite.problems) == 4 * len(TABLE_CHANGES)
    assert all({o.family for o in problem.optimizers} == {"sgd", "adam"} for problem in suite.problems)
    assert len(suite.protocol.final_seeds) == 16
    wanted = {"linear", "cosine", "1-sqrt", "wsd", "wsd 0.5", "schedulefree", "momo", "default(linear)"}
    assert wanted <= {method.name for method in CHANGING}


def test_no_change_of_a_network_is_in_both_halves():
    chosen, confirmed = (
        {problem.name for problem in SUITES[f"changing-deep-{half}"].problems} for half in ("choose", "confirm")
    )
    assert not chosen & confirmed
    assert len(chosen | confirmed) == len(NETWORK_CHANGES) + len(TEXT_CHANGES) - 1  # steady ones are in peaks-deep


def test_arms_at_a_multiple_of_the_best_peak():
    protocol = replace(SUITES["peaks-choose"].protocol, methods=UNDER_TUNED, final_seeds=(100, 101, 102))
    cell, _ = finish(protocol=protocol)
    by_name = {}
    for final in cell.finals:
        by_name.setdefault((final.method, final.rates), []).append(final.run)
    best = by_name["linear", "swept"][0].rate
    assert best == pytest.approx(BEST, rel=0.2)
    for factor in (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0):
        for name in (f"linear at {factor:g}", f"hold 0.6 at {factor:g}"):
            runs = by_name[name, "rule"]
            assert [run.seed for run in runs] == [100, 101, 102]
            assert [run.rate for run in runs] == pytest.approx([factor * best] * 3, rel=1e-5)
            assert (name, "swept") not in by_name
        logs = {run.log.partition(":")[0] for run in by_name[f"unguarded(linear at {factor:g})", "rule"]}
        logged = [run for run in cell.used if run.key in logs]
        assert len(logged) == 3
        assert [run.rate for run in logged] == pytest.approx([factor * best] * 3, rel=1e-5)
        assert not {run.seed for run in logged} & {100, 101, 102}


def test_every_method_has_one_way_to_its_rate():
    for method in (*METHODS, *CHANGING, *UNDER_TUNED):
        assert bool(method.schedules) + bool(method.mode) + bool(method.package) == 1, method.name
        assert bool(method.mode) == bool(method.prior), method.name
