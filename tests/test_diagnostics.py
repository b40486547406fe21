import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from refine.cli.main import main

from refine import GradientNorms, constant, fit, from_name, linear, read_norms
from refine.diagnostics import RULES, check, late_rise
from refine.health import inspect

T = 1000
AT = (np.arange(T) + 0.5) / T
LINEAR = linear(T).multiplier
RISING_LATE = 1.0 + np.maximum(4.0 * AT - 3.4, 0.0)


def noise(sigma, seed=0, size=T):
    return np.random.default_rng(seed).lognormal(sigma=sigma, size=size)


def late(checks):
    (found,) = [f for f in checks if f.rule.name == "late rise"]
    return found


class TestLateRise:
    def test_without_noise_it_is_the_last_fifth_over_the_lowest_of_the_others(self):
        """From half-time on, where the rate falls all the time: tenths of the run."""
        norms = np.repeat([9.0, 1.0, 2.0, 1.5, 4.0, 3.0, 2.5, 2.0, 2.25, 3.0], T // 10)
        assert late_rise(norms, AT, LINEAR) == pytest.approx(1.5, rel=1e-12)

    def test_the_window_begins_where_the_rate_leaves_its_peak(self):
        """WSD with a cooldown from 0.8 on: 0.2 / 5 of the run for a part; the rise before it does not count."""
        wsd = from_name("wsd:cooldown_fraction=0.2", T).multiplier
        start = (np.flatnonzero(wsd >= 0.99)[-1] + 1) / T
        norms = np.where(start > AT, 1.0, 2.0)
        assert late_rise(norms, AT, wsd) == pytest.approx(1.0, rel=1e-12)
        norms = np.where(start + 0.8 * (1 - start) < AT, 2.6, norms)
        assert late_rise(norms, AT, wsd) == pytest.approx(1.3, rel=1e-12)

    def test_three_standard_errors_are_taken_off(self):
        norms = np.where(AT < 0.9, 1.0, 1.3) * noise(0.3)
        logs = [np.log(norms[(a <= AT) & (a + 0.1 > AT)]) for a in (0.5, 0.6, 0.7, 0.8, 0.9)]
        middle = [np.median(part) for part in logs]
        spread = 1.4826 * np.median(np.concatenate([np.abs(p - m) for p, m in zip(logs, middle, strict=True)]))
        error = spread * math.sqrt(math.pi / 2) * math.sqrt(2 / 100)  # of a difference of medians of 100
        assert late_rise(norms, AT, LINEAR) == pytest.approx(math.exp(middle[4] - min(middle[:4]) - 3 * error))

    @pytest.mark.parametrize(
        "rates", [constant(T).multiplier, constant(T, warmup_steps=100).multiplier, np.arange(1, T + 1) / T]
    )
    def test_it_is_unknown_where_the_rate_does_not_fall(self, rates):
        assert late_rise(1 + AT, AT, rates) is None

    def test_one_zero_at_the_end_is_no_fall(self):
        """Some loops log the rate of a next step that never comes."""
        assert late_rise(1 + AT, AT, np.append(np.ones(T - 1), 0.0)) is None

    def test_it_is_unknown_on_few_points(self):
        few = np.linspace(0, 1, 99, endpoint=False)
        assert late_rise(1 + few, few, LINEAR) is None
        enough = np.linspace(0, 1, 110, endpoint=False)
        assert late_rise(1 + enough, enough, LINEAR) > 1

    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 0.6]), st.floats(1e-30, 1e30))
    def test_scale_never_matters_and_flat_logs_are_not_flagged(self, seed, sigma, scale):
        norms = noise(sigma, seed)
        value = late_rise(norms, AT, LINEAR)
        assert value < 1.1
        assert late_rise(scale * norms, AT, LINEAR) == pytest.approx(value, rel=1e-9)
        assert late_rise(np.where(AT < 0.9, 1, 2) * norms, AT, LINEAR) > 1.2

    def test_norms_worlds_apart(self):
        assert late_rise(np.where(AT < 0.9, 1e-300, 1e300), AT, LINEAR) == math.inf


class TestCheck:
    def test_the_rule_advises_against_it_and_says_what_to_do(self):
        (rule,) = [rule for rule in RULES if rule.name == "late rise"]
        assert (rule.about, rule.action, rule.advice) == ("norms", "not recommended", "not recommended if above 1.1")
        for text in ("weight decay", "AdamC (arXiv:2506.02285)", "make_scheduler(..., scale_weight_decay=True)"):
            assert text in rule.reason
        assert not late(check({"late rise": None})).raised

    @pytest.mark.parametrize(
        ("shape", "rates", "raised"),
        [
            (1.0, LINEAR, False),
            (RISING_LATE, LINEAR, True),
            (RISING_LATE, constant(T).multiplier, False),
            (RISING_LATE, None, False),
            (2.0 - AT, LINEAR, False),
        ],
    )
    def test_fit_and_inspect_both_show_it(self, shape, rates, raised):
        norms = GradientNorms.from_values(shape * noise(0.1), learning_rate=rates)
        fitted, inspected = fit(norms, optimizer="adam"), inspect(norms)
        for result in (fitted, inspected):
            assert late(result.checks).raised is raised
            assert any("scale_weight_decay" in warning for warning in result.warnings) is raised
            text = result.summary() if result is inspected else result.summary(verbose=True)
            row = next(line for line in text.splitlines() if "late rise" in line)
            unknown = late(result.checks).value is None
            assert row.endswith("NOT RECOMMENDED" if raised else "not checked" if unknown else "ok")
            json.dumps(result.to_dict(), allow_nan=False)
        assert late(fitted.checks).value == late(inspected.checks).value

    def test_a_prior_schedule_tells_the_rates(self):
        norms = GradientNorms.from_values(RISING_LATE * noise(0.1))
        assert late(fit(norms, optimizer="adam").checks).value is None
        assert late(fit(norms, optimizer="adam", prior_schedule="cosine").checks).raised
        assert late(fit(norms, optimizer="adam", prior_schedule="constant").checks).value is None

    def test_a_jump_is_a_shift_and_no_rise(self):
        norms = GradientNorms.from_values(np.where(AT < 0.9, 1.0, 1.4) * noise(0.1), learning_rate=LINEAR)
        found = inspect(norms)
        assert [(shift.step, shift.cause) for shift in found.shifts] == [(pytest.approx(900, abs=3), "unknown")]
        assert late_rise(norms.values, AT, LINEAR) > 1.2
        assert late(found.checks).value < 1.0
        assert not late(fit(norms, optimizer="adam").checks).raised

    @pytest.mark.parametrize(
        ("name", "value"),
        [("fashion_mnist_sgd", 0.968), ("shakespeare_adamw", 1.179), ("shakespeare_adamw_clipped", 1.219)],
    )
    def test_our_own_logs(self, root, name, value):
        """A CNN without normalisation; a transformer with layer norms and weight decay, where it is raised."""
        found = late(inspect(read_norms(root / "data" / f"{name}.csv")).checks)
        assert found.value == pytest.approx(value, abs=0.001)
        assert found.raised == (value > 1.1)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("const_lr0.0005", None),
            ("const_lr0.001", None),
            ("cos0_lr0.0005", 1.17),
            ("cos0_lr0.001", 1.30),
            ("wsd0.2_lr0.001", 1.11),
            ("wsd0.994_lr0.0005", 1.17),
            ("wsd0.994_lr0.001", 1.29),
        ],
    )
    def test_logs_of_language_models_have_it_where_the_rate_falls(self, shared, name, value):
        """AdamW; the higher the rate the larger: decay acts through rate times decay."""
        found = late(inspect(read_norms(shared / "llm-runs" / "grad_norm" / f"{name}_T50000.csv")).checks)
        assert found.raised is (value is not None)
        assert found.value == (value if value is None else pytest.approx(value, abs=0.006))


def test_a_rate_that_still_rises_is_no_late_rise(make_log):
    rows = "".join(f"{t},1.0,{1e-5 * t}\n" for t in range(1, 61))
    log = make_log(f"step,grad-norm,learning-rate\n{rows}")
    assert CliRunner().invoke(main, ["inspect", str(log)]).exit_code == 0
    assert late_rise(np.ones(100), np.arange(100) / 100, np.linspace(0.1, 0.9, 100)) is None
