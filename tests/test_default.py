"""The default: how its ratio is defined, what decides, and what comes out of a fit and of the next one."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import GradientNorms, fit, linear, read_norms
from refine.default import Choice, bend, choose, progress_ratio
from refine.families import constant, cosine, polynomial, with_warmup, wsd
from refine.health import inspect
from refine.norms import Source
from refine.pool import pool
from refine.readers import ReadOptions, read_groups

T, W = 400, 20
RATES = 0.01 * linear(T, warmup_steps=W).multiplier
FLAT = 3.0 + np.sin(np.arange(T))
FALLING = np.exp(-2.0 * np.arange(T) / T)
ADAM = Source(optimizer="adam")
MANY = 1900
POWERS = {"linear": 1.0, "later": 0.75, "earlier": 1.25}


def losses(ratio, rates, values):
    """Of a run with exactly this progress ratio: what each update's noise explains, times it, and 0 at the end."""
    lost = rates * values
    lost[-round(0.05 * lost.size) :] = 0.0
    return 5.0 + ratio * lost * np.sum(rates**2 * values) / (2.0 * np.sum(rates * lost))


def adam(ratio=2.0, values=FLAT, rates=RATES, kind="l1", source=ADAM, **changes):
    """A log of Adam; ``changes`` replace columns."""
    loss = changes.pop("loss", losses(ratio, rates, values))
    l1, rates = changes.pop("l1", None), changes.pop("learning_rate", rates)
    norms = GradientNorms.from_values(values, kind=kind, learning_rate=rates, loss=loss, source=source, **changes)
    return norms if l1 is None else replace(norms, l1=l1)


class TestProgressRatio:
    @pytest.mark.parametrize(("size", "last"), [(5, 1), (29, 1), (30, 2), (400, 20), (1010, 50)])
    def test_the_end_is_the_mean_of_the_last_twentieth(self, size, last):
        loss = np.zeros(size)
        loss[-last:] = 7.0 + np.linspace(-1.0, 1.0, last) if last > 1 else 7.0
        rates, squared = np.full(size, 0.5), np.full(size, 4.0)
        expected = 2.0 * (0.5 * -7.0 * (size - last)) / (0.25 * 4.0 * size)
        assert progress_ratio(loss, rates, squared) == pytest.approx(expected, rel=1e-12)

    @given(st.integers(0, 2**32 - 1), *[st.floats(1e-6, 1e6)] * 2, st.floats(-100.0, 100.0))
    def test_units_never_matter(self, seed, a, b, shift):
        """Loss b times as large, and so the gradient; steps a times as long. SGD's N = G^2, rates in a^2 / b."""
        rng = np.random.default_rng(seed)
        loss, rates, norm = rng.normal(size=60), rng.random(60), rng.lognormal(size=60)
        of_adam, of_sgd = (progress_ratio(loss, rates, squared) for squared in (norm, norm**2))
        close = {"rel": 1e-9, "abs": 1e-9}
        assert progress_ratio(b * loss, a * rates, norm * b / a) == pytest.approx(of_adam, **close)
        assert progress_ratio(b * loss, rates * a**2 / b, (norm * b / a) ** 2) == pytest.approx(of_sgd, **close)
        assert progress_ratio(loss + shift, rates, norm) == pytest.approx(of_adam, **close)
        thrice = (np.repeat(column, 3) for column in (loss, rates, norm))
        assert progress_ratio(*thrice) == pytest.approx(of_adam, **close)

    def test_of_no_noise_there_is_none(self):
        assert math.isnan(progress_ratio(np.ones(40), np.zeros(40), np.ones(40)))


def descend(sample, x, rates):
    """SGD from x: distance gained, squared; loss, N; ``sample(x)`` gives loss and gradient, the solution is 0."""
    start, found = x, []
    for rate in rates:
        loss, gradient = sample(x)
        found.append((loss, gradient @ gradient))
        x = x - rate * gradient
    return start @ start - x @ x, *np.array(found).T


def ratio_to_minimum(loss, rates, squared):
    """With 0, the exact minimum, for the last twentieth, at rate 0."""
    end = np.zeros(loss.size // 19)
    return progress_ratio(*(np.append(column, end) for column in (loss, rates, squared)))


class TestTheorem:
    """|x_1 - x*|^2 - |x_{T+1} - x*|^2 >= (ratio - 1) sum of eta^2 N."""

    @pytest.mark.parametrize("rate", [0.003, 0.03, 0.09])
    def test_minibatches_of_a_quadratic_make_it_twice_the_ratio(self, rate):
        """Least squares that can be solved: <g, x - x*> = 2 (L - L*) of every batch."""
        rng = np.random.default_rng(0)
        table = rng.normal(size=(200, 6)) * np.geomspace(1.0, 0.03, 6)

        def sample(x):
            rows = table[rng.integers(200, size=4)]
            return 0.5 * np.mean((rows @ x) ** 2), rows.T @ (rows @ x) / 4

        rates = rate * linear(MANY).multiplier
        gained, loss, squared = descend(sample, rng.normal(size=6), rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert gained == pytest.approx((2.0 * ratio - 1.0) * noise, rel=1e-9)
        assert gained > (ratio - 1.0) * noise

    @pytest.mark.parametrize("rate", [0.01, 0.3])
    def test_distances_attain_it_and_what_lies_between_lies_between(self, rate):
        rates, start = rate * linear(MANY).multiplier, np.array([3.0, -1.0, 0.2])
        gained, loss, squared = descend(lambda x: (np.abs(x).sum(), np.sign(x)), start, rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert gained == pytest.approx((ratio - 1.0) * noise, rel=1e-9)

        def rounded(x):
            root = np.sqrt(1.0 + x**2)
            return np.sum(root - 1.0), x / root

        gained, loss, squared = descend(rounded, start, rates)
        noise, ratio = np.sum(rates**2 * squared), ratio_to_minimum(loss, rates, squared)
        assert (ratio - 1.0) * noise < gained < (2.0 * ratio - 1.0) * noise

    def test_a_run_that_has_arrived_has_a_half(self):
        """A quadratic in 50 dimensions, gradients with noise, begun in its stationary spread; begun further out: more.

        Its last twentieth still lies above the minimum, which makes the ratio smaller.
        """
        rng, rate = np.random.default_rng(1), 0.02
        rates, spread = rate * linear(MANY).multiplier, math.sqrt(rate / (2.0 - rate))

        def noisy(x):
            return 0.5 * x @ x, x + rng.normal(size=50)

        for away, whole, shown in ((1.0, (0.47, 0.55), (0.38, 0.47)), (30.0, (5.0, 50.0), (5.0, 50.0))):
            _, loss, squared = descend(noisy, away * spread * rng.normal(size=50), rates)
            assert whole[0] < ratio_to_minimum(loss, rates, squared) < whole[1]
            assert shown[0] < progress_ratio(loss, rates, squared) < shown[1]


UP, DOWN = math.inf, -math.inf
FELL = "the loss fell {:g} times as far as the noise of the updates explains"
FALLEN = "the norms fall to {:g} of their value"


class TestChoose:
    @pytest.mark.parametrize(
        ("rho", "ratio", "which", "reason"),
        [
            (0.2, math.nextafter(1.2, UP), "later", f"{FELL.format(1.2)}, above 1.2"),
            (0.2, 1.2, "linear", f"{FELL.format(1.2)}, not above 1.2"),
            (0.2, -5.0, "linear", f"{FELL.format(-5)}, not above 1.2"),
            (9.0, 50.0, "later", f"{FELL.format(50)}, above 1.2"),
            (math.nextafter(0.2, DOWN), 50.0, "linear", f"{FALLEN.format(0.2)} and {FELL.format(50)}, not below 1"),
            (0.1, 1.0, "linear", f"{FALLEN.format(0.1)} and {FELL.format(1)}, not below 1"),
            (0.1, math.nextafter(1.0, DOWN), "earlier", f"{FALLEN.format(0.1)} and {FELL.format(1)}, below 1"),
            (0.0, -5.0, "earlier", f"{FALLEN.format(0)} and {FELL.format(-5)}, below 1"),
            (0.9, "no losses", "linear", "nothing in the log bends it: no losses"),
            (0.1, "no losses", "linear", "nothing in the log bends it: no losses"),
        ],
    )
    def test_both_sides_of_every_threshold(self, rho, ratio, which, reason):
        assert choose({"rho": rho, "progress ratio": ratio, "points": 12.0}) == Choice(which, reason)

    def test_without_rho_nothing_is_bent(self):
        assert choose({"rho": None, "progress ratio": 2.0}).bend == "linear"
        assert choose({}).bend == "linear"


def unknown(norms, **options):
    """Why there is no ratio, as it is said."""
    result = fit(norms, **options)
    assert result.shape == "linear"
    assert result.recommended == result.linear
    assert result.progress_ratio is None
    assert result.to_dict()["progress_ratio"] is None
    before, _, reason = result.choice.reason.partition("nothing in the log bends it: ")
    assert before == ""
    assert "the loss fell" not in result.reason  # nothing is bent, so nothing is said of it but with -v
    assert result.choice.reason in " ".join(result.summary(verbose=True).split())
    return reason


OF_A_GROUP = "the loss is the whole model's, the norm a group's"


def at(places, value, column):
    return np.where(np.isin(np.arange(T), places), value, column)


class TestUnknown:
    """The same log has a ratio of 2, and is decided by it, where nothing is missing."""

    LOSS = losses(2.0, RATES, FLAT)

    def test_nothing_is_missing(self):
        """Nor where a tenth of the losses lack, or 39 of 400 in one stretch."""
        lacking = [adam(loss=at(gone, np.nan, self.LOSS)) for gone in (range(5, T, 10), range(100, 139))]
        for norms in (adam(), adam(kind="dual", values=1.0 / FLAT, loss=self.LOSS, l1=FLAT), *lacking):
            assert fit(norms).shape == "later"
        assert fit(adam()).progress_ratio == pytest.approx(2.0, rel=1e-12)
        assert fit(adam(source=Source()), optimizer="adam").shape == "later"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"source": Source()}, "the optimizer is assumed: give --optimizer"),
            ({"source": Source(optimizer="sgd")}, "the rule was tried for the Adam family only"),
            ({"kind": "l2"}, "the rule takes the l1 norm, which GradNormRecorder logs"),
            ({"kind": "dual"}, "the rule takes the l1 norm, which GradNormRecorder logs"),
            ({"source": replace(ADAM, kind_known=False)}, "the rule takes the l1 norm, which GradNormRecorder logs"),
            ({"source": replace(ADAM, columns={"norm": "grad_norm_l1/group:w"})}, OF_A_GROUP),
            ({"loss": None}, "the log holds no losses"),
            ({"learning_rate": None}, "the learning rates of the whole run are not known"),
            ({"learning_rate": at(range(200, T), np.nan, RATES)}, "the learning rates of the whole run are not known"),
            ({"learning_rate": np.maximum(RATES, 0.00251)}, "the logged run did not decay about linearly"),
            ({"loss": at(range(100, 141), np.nan, LOSS)}, "359 losses are too few"),
            ({"loss": at([7], 1e9, LOSS)}, "a single update makes most of it"),
            ({"values": at([7], 1e9, FLAT), "loss": LOSS}, "a single update makes most of it"),
            ({"learning_rate": 1e-180 * RATES}, "loss, rates and norms give no number"),
        ],
    )
    def test_why(self, changes, reason):
        assert unknown(adam(**changes)) == reason

    def test_a_rate_that_ends_just_low_enough_is_annealed(self):
        assert fit(adam(learning_rate=np.maximum(RATES, 0.00249))).shape == "later"

    @pytest.mark.parametrize(("missing", "reason"), [(9, "99 losses are too few"), (8, None)])
    def test_a_hundred_losses_are_enough(self, missing, reason):
        """Of 108 updates."""
        rates, loss = 0.01 * linear(108).multiplier, np.linspace(3.0, 1.0, 108)
        loss[10 : 10 * missing + 1 : 10] = np.nan
        norms = adam(values=np.full(108, 0.5), rates=rates, loss=loss)
        assert unknown(norms) == reason if reason else fit(norms).shape == "later"

    @pytest.mark.parametrize(("kept", "known"), [(200, False), (359, False), (362, True)])
    def test_a_part_of_the_run_tells_nothing_of_the_whole(self, kept, known):
        part = GradientNorms.from_values(
            FLAT[:kept], kind="l1", loss=self.LOSS[:kept], logged_steps=T, source=ADAM, learning_rate=RATES[:kept]
        )
        prior = {"prior_schedule": linear(T, warmup_steps=W), "peak_lr": 0.01}
        if known:
            assert fit(part, **prior).progress_ratio
        else:
            assert re.fullmatch(r"\d+ updates in one stretch are not logged", unknown(part, **prior))
        if kept < 360:  # nine in ten of the rates would be the whole run's
            assert unknown(part) == "the learning rates of the whole run are not known"

    def test_the_peak_must_be_known(self):
        norms = adam(learning_rate=None)
        assert unknown(norms, prior_schedule=linear(T, warmup_steps=W)) == (
            "the peak learning rate is not known: give --peak-lr"
        )
        found = fit(norms, prior_schedule=linear(T, warmup_steps=W), peak_lr=0.01)
        assert found.progress_ratio == pytest.approx(2.0, rel=1e-9)

    @pytest.mark.parametrize("start", [0, 100, 340])
    def test_a_hole_of_more_than_a_tenth_is_refused(self, start):
        for size, refused in ((38, False), (50, True)):
            kept = np.delete(np.arange(T), np.arange(start, start + size))
            norms = adam(values=FLAT[kept], rates=RATES[kept], loss=self.LOSS[kept], steps=kept + 1, logged_steps=T)
            prior = {"prior_schedule": linear(T, warmup_steps=W), "peak_lr": 0.01}
            if refused:
                assert re.fullmatch(r"5[01] updates in one stretch are not logged", unknown(norms, **prior))
            else:
                assert fit(norms, **prior).progress_ratio == pytest.approx(2.0, rel=0.1)

    def test_pooled_logs_have_none(self):
        assert unknown(pool([adam(), adam()]), smoothing=0.0) == "the rule is for a single log"

    @pytest.mark.parametrize(
        ("schedule", "straight"),
        [
            (linear(T), True),
            (cosine(T), True),
            (polynomial(T, power=0.75), True),
            (polynomial(T, power=1.25), True),
            (wsd(T, cooldown_fraction=0.2), False),
            (constant(T), False),
        ],
        ids=["linear", "cosine", "later", "earlier", "wsd", "constant"],
    )
    def test_what_decays_about_linearly(self, schedule, straight):
        for warmup in (0, W):
            rates = 0.01 * with_warmup(schedule.multiplier, warmup)
            norms = adam(rates=rates)
            if straight:
                found = fit(norms)
                assert (found.shape, found.progress_ratio) == ("later", pytest.approx(2.0, rel=1e-9))
            else:
                assert unknown(norms) == "the logged run did not decay about linearly"

    def test_one_in_ten_rows_are_enough(self):
        """A run of 4,000 updates of which every tenth is logged."""
        steps, rates = np.arange(10, 4001, 10), 0.01 * linear(4000, warmup_steps=200).multiplier[9::10]
        norms = GradientNorms.from_values(
            FLAT, steps, kind="l1", loss=losses(2.0, rates, FLAT), learning_rate=rates, source=ADAM
        )
        assert fit(norms).progress_ratio == pytest.approx(2.0, rel=1e-6)

    def test_rows_weigh_by_the_updates_they_stand_for(self):
        """Every update of the first tenth, then every 10th: the ratio of the full log."""
        total = 4000
        rates = 0.01 * linear(total, warmup_steps=200).multiplier
        values = 3.0 + np.sin(np.arange(total))
        early = 1.0 + 9.0 * np.exp(-np.arange(total) / 200)
        full = adam(2.0, values, rates, loss=5.0 + (losses(2.0, rates, values) - 5.0) * early)
        kept = np.concatenate([np.arange(400), np.arange(400, total, 10)])
        prior = {"prior_schedule": linear(total, warmup_steps=200), "peak_lr": 0.01}
        part = adam(values=values[kept], rates=rates[kept], loss=full.loss[kept], steps=kept + 1, logged_steps=total)
        whole = fit(full, **prior).progress_ratio
        assert whole == pytest.approx(progress_ratio(full.loss, rates, values), rel=1e-9)
        assert fit(part, **prior).progress_ratio == pytest.approx(whole, rel=0.1)
        assert progress_ratio(part.loss, rates[kept], values[kept]) > 1.2 * whole  # as many updates a row

    @given(st.lists(st.integers(1, 9), min_size=20, max_size=60), st.integers(0, 2**32 - 1))
    def test_a_row_for_many_updates_counts_as_often(self, each, seed):
        rng, each = np.random.default_rng(seed), np.array([*each, 1])
        columns = rng.normal(size=each.size), 1.0 + rng.random(each.size), 1.0 + rng.random(each.size)
        each[-1] = max(1, round(each.sum() / 19))  # the last row is the last twentieth
        repeated = progress_ratio(*(np.repeat(column, each) for column in columns))
        assert progress_ratio(*columns, each.astype(float)) == pytest.approx(repeated, rel=1e-9, abs=1e-9)


def recorded(place, l1=FLAT, dual=None, **groups):
    """A log as GradNormRecorder writes it; ``groups``: norms of each kind, of param groups."""
    columns = {"grad_norm_l1": l1, "grad_norm_l2": np.sqrt(FLAT)}
    columns |= {} if dual is None else {"grad_norm_dual": dual}
    for name, of_group in groups.items():
        columns |= {f"{column}/group:{name}": 0.5 * of_group for column in columns if "/" not in column}
        columns[f"lr/group:{name}"] = RATES
    columns |= {"lr": RATES, "loss": TestUnknown.LOSS}
    header = {"format": "refine-gradient-norms", "format_version": 1, "optimizer": "AdamW", "clipping": "none"}
    header |= {"planned_steps": T, "groups": list(groups)} if groups else {"planned_steps": T}
    rows = (f"{t},{','.join(repr(float(c[t - 1])) for c in columns.values())},,\n" for t in range(1, T + 1))
    text = f"# {json.dumps(header)}\nstep,{','.join(columns)},skipped,resumed\n"
    path = place / "run.csv"
    path.write_text(text + "".join(rows))
    return str(path)


class TestL1BesideDual:
    def test_it_decides(self, tmp_path):
        """The dual norm alone would have had a ratio of 0.2."""
        path = recorded(tmp_path, dual=10.0 * FLAT)
        read, told = read_norms(path), read_norms(path, norm_kind="l1")
        assert (read.kind, told.kind, told.l1) == ("dual", "l1", None)
        assert_allclose(read.l1, FLAT)
        own, other = fit(read), fit(told)
        assert own.progress_ratio == other.progress_ratio == pytest.approx(2.0, rel=1e-9)
        assert (own.shape, other.shape) == ("later", "later")

    def test_dual_alone_tells_nothing(self, tmp_path):
        path = recorded(tmp_path, dual=10.0 * FLAT)
        norms = replace(read_norms(path), l1=None)
        assert unknown(norms) == "the rule takes the l1 norm, which GradNormRecorder logs"

    @pytest.mark.parametrize("norm_kind", ["l1", "dual"])
    def test_groups_stay_linear(self, tmp_path, norm_kind):
        path = recorded(tmp_path, dual=10.0 * FLAT, w=FLAT, b=FLAT)
        found = read_groups(path, ReadOptions(norm_kind=norm_kind))
        assert sorted(found) == ["b", "w"]
        for norms in found.values():
            assert norms.kind == norm_kind
            assert unknown(norms) == OF_A_GROUP
        assert fit(read_norms(path, norm_kind=norm_kind)).shape == "later"


CASES = [("later", 2.0, FLAT), ("linear", 1.1, FLAT), ("earlier", 0.9, FALLING), ("linear", 1.1, FALLING)]


class TestFit:
    @pytest.mark.parametrize(("which", "ratio", "values"), CASES)
    @pytest.mark.parametrize("total_steps", [None, 1000])
    def test_the_multipliers_are_those_of_the_bend_behind_the_logged_warmup(self, which, ratio, values, total_steps):
        result = fit(adam(ratio, values), total_steps=total_steps)
        assert (result.shape, result.choice.bend, result.warmup_steps) == (which, which, W)
        assert result.progress_ratio == pytest.approx(ratio, rel=1e-9)
        left = 1.0 - np.arange(total_steps or T) / (total_steps or T)
        bent = left ** POWERS[which]
        bent[: W - 1] = bent[W - 1] * np.arange(1, W) / W
        assert_allclose(result.recommended.multiplier, bent / bent[W - 1], rtol=1e-9)
        assert_allclose(bend(which, 50), (1.0 - np.arange(50) / 50) ** POWERS[which], rtol=1e-12)
        assert (result.recommended == result.linear) == (which == "linear")

    @pytest.mark.parametrize(("which", "ratio", "about"), [("later", 2.0, 0.875), ("linear", 1.1, 1.0)])
    def test_the_peak_is_that_of_equal_area(self, which, ratio, about):
        result = fit(adam(ratio))
        found = result.to_dict()
        assert result.shape == which
        assert found["peak_lr_ratio"] == pytest.approx(about, abs=0.01)
        area = found["suggested_peak_lr"] * result.recommended.multiplier.sum()
        assert area == pytest.approx(RATES.sum(), rel=1e-9)

    def test_where_norms_fall_far_no_peak_is_suggested(self):
        result = fit(adam(0.9, FALLING))
        own = result.measures["recommended"]
        assert (result.shape, own.peak_lr_ratio, own.peak_lr_ratio_by_bound) == ("earlier", None, None)
        assert any(warning.startswith("near-separable") for warning in result.warnings)
        said = " ".join(result.summary().split())
        assert (
            "no rule is trusted on norms that fall this far; the old one is what was tried with this schedule" in said
        )

    @pytest.mark.parametrize(("which", "ratio", "values"), CASES)
    def test_what_is_said_written_and_kept(self, which, ratio, values):
        result = fit(adam(ratio, values))
        power = "" if which == "linear" else f", (1 - t/T)^{POWERS[which]},"
        shape = "linear decay" if which == "linear" else f"{which} than linear decay"
        said = " ".join(result.summary().split())
        assert f"recommended {shape}{power} over 400 updates, the first 20 of them warmup" in said
        assert f"why {result.reason}" in said
        assert FELL.format(round(ratio, 12)) in result.choice.reason
        assert result.reason.startswith(f"{result.choice.reason}; " if which != "linear" else "norms ")
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert data["recommended"] == {"name": which, "reason": result.reason}
        assert data["progress_ratio"] == result.progress_ratio
        kept = result.recommended.provenance
        assert (kept["name"], kept["shape"], kept["reason"]) == ("recommended", which, result.reason)
        refined = result.refined.provenance
        assert (refined["name"], refined["shape"]) == ("refined", "refined")
        assert (refined["reference"], kept.get("reference")) == ("arXiv:2310.07831", None)

    def test_no_warmup_is_none(self):
        rates = 0.01 * linear(T).multiplier
        result = fit(adam(rates=rates))
        said = " ".join(result.summary().split())
        assert "recommended later than linear decay, (1 - t/T)^0.75, over 400 updates why" in said
        assert_allclose(result.recommended.multiplier, linear(T).multiplier ** 0.75, rtol=1e-9)

    def test_the_published_form_of_the_refined_one_changes_nothing_of_it(self):
        one, other = fit(adam()), fit(adam(), published=True)
        assert one.recommended == other.recommended
        assert (one.reason, one.shape, one.progress_ratio) == (other.reason, other.shape, other.progress_ratio)

    def test_raised_checks_are_warnings_of_the_refined_one_and_bend_nothing(self):
        """A late rise, spikes and a gap."""
        values = np.where(np.arange(T) < 360, np.exp(-np.arange(T) / 200), 0.3) + at([5, 6], 9e3, np.zeros(T))
        steps = np.delete(np.arange(1, T + 1), np.arange(100, 150))
        kept = steps - 1
        norms = GradientNorms.from_values(
            values[kept], steps, kind="l1", learning_rate=RATES[kept], source=ADAM, logged_steps=T
        )
        result = fit(norms)
        raised = {found.rule.name for found in result.checks if found.raised and found.rule.about == "norms"}
        assert raised == {"late rise", "spikes", "longest gap", "like cases"}
        for name in raised:
            assert any(text.startswith(f"{name} is ") for text in result.warnings)
        assert {found.rule.name for found in result.against} >= {"late rise", "longest gap"}
        assert "spikes" not in {found.rule.name for found in result.against}
        assert result.recommended == result.linear
        shown = {flag["name"]: flag for flag in result.to_dict()["flags"]}
        assert all(shown[name]["raised"] for name in raised)


class TestAgain:
    @pytest.mark.parametrize(("which", "ratio", "values"), CASES)
    def test_a_run_on_the_result_gives_the_same_schedule(self, which, ratio, values):
        """It is linear decay that is bent, not the logged schedule: nothing compounds."""
        first = fit(adam(ratio, values))
        rates = 0.008 * first.recommended.multiplier
        again = fit(adam(ratio, values, rates=rates))
        assert (again.shape, again.warmup_steps, again.already_ran) == (which, W, True)
        assert again.recommended == first.recommended
        assert again.measures["recommended"].peak_lr_ratio == 1.0
        assert again.to_dict()["suggested_peak_lr"] == pytest.approx(0.008)

    def test_a_run_that_is_no_longer_far_goes_back_to_linear_decay(self):
        first = fit(adam(2.0))
        again = fit(adam(1.1, rates=0.008 * first.recommended.multiplier))
        assert again.recommended == fit(adam(1.1)).recommended
        assert not again.already_ran
        expected = first.recommended.multiplier.mean() / again.recommended.multiplier.mean()
        assert again.measures["recommended"].peak_lr_ratio == pytest.approx(expected)

    def test_a_run_on_the_refined_one_is_no_run_on_the_recommended_one(self):
        values = np.where(np.arange(T) < 60, 9.0, 3.0)
        first = fit(adam(1.1, values))
        again = fit(adam(1.1, values, rates=0.008 * first.refined.multiplier, loss=None))
        assert not again.already_ran
        assert again.measures["recommended"].peak_lr_ratio != 1.0


class TestOurOwnLogs:
    @pytest.mark.parametrize("name", ["shakespeare_adamw", "shakespeare_adamw_clipped", "fashion_mnist_sgd"])
    def test_inspect_tells_what_fit_will_decide(self, root, name):
        norms = read_norms(root / "data" / f"{name}.csv")
        result, found = fit(norms), inspect(norms)
        assert found.choice == result.choice
        (line,) = [line for line in found.summary().splitlines() if line.startswith("recommended")]
        assert result.choice.reason[:50] in line

    def test_a_transformer_is_far_from_its_solution(self, root):
        path = root / "data" / "shakespeare_adamw.csv"
        result = fit(path)
        norm, rate, loss = np.genfromtxt(path, delimiter=",", skip_header=2, usecols=(1, 5, 6)).T
        expected = 2.0 * np.sum(rate * (loss - loss[-100:].mean())) / np.sum(rate**2 * norm)
        assert result.progress_ratio == pytest.approx(expected, rel=1e-6)
        assert expected == pytest.approx(1.6992, abs=5e-5)
        assert (result.shape, result.warmup_steps) == ("later", 100)
        assert_allclose(result.recommended.multiplier, with_warmup(linear(2000).multiplier ** 0.75, 100), rtol=1e-9)

    def test_sgd_stays_linear_and_has_run_already(self, root):
        result = fit(root / "data" / "fashion_mnist_sgd.csv")
        assert (result.shape, result.progress_ratio, result.already_ran) == ("linear", None, True)
        assert result.choice.reason.endswith("the rule was tried for the Adam family only")
        assert_allclose(result.recommended.multiplier, linear(3000, warmup_steps=150).multiplier, rtol=1e-9)
