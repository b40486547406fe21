import json

import numpy as np
import pytest

from refine import GradientNorms, read_norms
from refine.health import examine, inspect


def noisy(n=400, sigma=0.3, seed=0):
    return np.random.default_rng(seed).lognormal(sigma=sigma, size=n)


def test_a_healthy_log_has_nothing_odd():
    health = examine(GradientNorms.from_values(noisy()))
    assert (health.spikes, health.repeated, health.gap_ratio, health.plateau, health.warnings) == (0, 0, 1.0, None, ())


@pytest.mark.parametrize(
    ("values", "steps", "warning"),
    [
        (np.minimum(noisy(), 1.0), None, "of the norms are at their maximum 1: they were logged after clipping"),
        (noisy(20), [*range(1, 20), 100], "the longest stride is 81 times the usual one: a sampled export"),
        (np.repeat(noisy(100), [2] * 10 + [1] * 90), None, "10 norms equal the one before to all digits, as DeepSpeed"),
        (noisy().round(2), None, "the norms have at most 3 significant digits: they were rounded when written"),
    ],
)
def test_what_is_odd_is_said(values, steps, warning):
    warnings = examine(GradientNorms.from_values(values, steps)).warnings
    assert len(warnings) == 1
    assert warning in warnings[0]


def test_spikes_are_counted():
    values = noisy(sigma=0.1)
    values[[50, 200]] = 20.0, 100.0
    health = examine(GradientNorms.from_values(values))
    assert health.spikes == 2
    assert health.largest_spike == pytest.approx(100.0, rel=0.2)


def test_the_report_is_json_and_counts_everything(make_log):
    rows = "".join(f"{t},{v:.17g},{0.1 * min(t / 40, 1)}\n" for t, v in enumerate(noisy(), start=1))
    log = make_log("step,grad_norm,lr\n" + rows + "300,nan,0.1\n" + rows.split("\n")[300] + "\n")
    found = inspect(read_norms(log))
    d = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (d["format"], d["points"], d["first_step"], d["last_step"]) == ("CSV", 400, 1, 400)
    assert (d["norm_kind"], d["clipping"], d["lr_alignment"]) == ("l2", "unknown", "unknown")
    assert d["dropped"] == {"non-finite": 1, "superseded": 1}
    assert d["rows"] == d["points"] + sum(d["dropped"].values())
    assert (d["out_of_order"], d["warmup_steps"], d["peak_lr"]) == (1, 40, 0.1)
    text = found.summary()
    for line in (
        "dropped      1 non-finite, 1 superseded",
        "warmup       40 updates",
        "resumes      the step goes back 1",
    ):
        assert line in text


def test_checks_of_the_norms_alone_are_shown():
    falling = inspect(GradientNorms.from_values(noisy() * np.linspace(1, 0.05, 400)))
    rho = next(found for found in falling.checks if found.rule.name == "rho")
    assert rho.against
    assert any("rho is" in warning for warning in falling.warnings)
    assert {found.rule.about for found in falling.checks} == {"norms"}
