import json
import re
from dataclasses import replace

import numpy as np
import pytest

from refine import GradientNorms, fit
from refine.diagnostics import RULES
from refine.norms import Source
from refine.report import MOST_LINES

T = np.arange(1, 401)
EARLY = 1 + 4 * np.exp(-T / 15)
RATES = np.minimum(T / 20, (401 - T) / 381) * 0.1
JARGON = re.compile(r"\b(rho|guard|mode|separable|progress ratio)\b", re.IGNORECASE)
TITLES = {"refined", "NOT refined", "recommended", "why", "read", "peak", "remark", "wrote", "use"}


@pytest.fixture
def columns(monkeypatch):
    return lambda width: monkeypatch.setenv("COLUMNS", str(width))


def is_breakable(line, width):
    """Whether a line is longer than the terminal although it holds more than one word behind its title."""
    return len(line) > width and len(line[13:].split()) > 1


def crafted(notes=10, total_steps=700, **how):
    """A log with every assumption, ten notes and long names."""
    source = Source(
        name="a/folder/with/a/rather/long/name/of/the/run/and/its/seed/metrics.csv",
        format="CSV",
        columns={
            "norm": "train/optimizer/global_gradient_norm_before_clipping",
            "step": "trainer/global_step_in_optimizer_updates",
            "lr": "train/optimizer/learning_rate_of_group_0",
            "loss": "train/cross_entropy_loss_of_the_minibatch",
        },
        kind_known=False,
        notes=tuple(
            f"note {i}: something that a reader saw in this log and that one should know" for i in range(notes)
        ),
    )
    norms = GradientNorms.from_values(EARLY, np.r_[T[:200], T[200:] + 50], logged_steps=500, source=source)
    return fit(
        replace(norms, dropped={"non-finite": 3, "superseded": 12}, out_of_order=2), total_steps=total_steps, **how
    )


LOGS = ["fashion_mnist_sgd", "shakespeare_adamw", "shakespeare_adamw_clipped", "crafted", "few"]


@pytest.fixture
def printed(run, root, make_log, columns):
    """What `refine fit` prints of a log."""

    def text(name, width, *options):
        columns(width)
        log = root / "data" / f"{name}.csv"
        if name == "crafted":
            norm, step = "train/optimizer/global_gradient_norm_before_clipping", "trainer/global_step_in_updates"
            rate = "train/optimizer/learning_rate_of_the_first_param_group"
            log = make_log(name="a_long_name_of_a_log_of_a_run.csv", **{step: T, norm: EARLY * 100, rate: RATES})
            options = (*options, "--column", norm, "--step-column", step, "--lr-column", rate, "--total-steps", 900)
        if name == "few":
            log = make_log(name="few.csv", step=T[:12], grad_norm=EARLY[:12])
        done = run("fit", log, "--force", *options)
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout

    return text


@pytest.mark.parametrize("width", [80, 100, 115, 120])
@pytest.mark.parametrize("name", LOGS)
def test_what_fit_prints_fits_the_terminal(printed, name, width):
    lines = printed(name, width).splitlines()
    assert not [line for line in lines if is_breakable(line, width)]
    assert len(lines) <= MOST_LINES
    assert lines[-1].startswith("use ")
    titles = {line[:13].strip() for line in lines} - {""}
    varying = {"refined", "NOT refined", "remark", "loss"}
    assert titles - varying == TITLES - varying
    assert not JARGON.search("\n".join(line[13:] for line in lines))
    text = " ".join(line[13:] for line in lines)
    assert "assumed: " in text
    assert lines[-1].split("  # ")[0].endswith('schedule="recommended")')


@pytest.mark.parametrize("width", [60, 80, 100, 115, 120])
@pytest.mark.parametrize("name", LOGS)
def test_verbose_has_every_check_with_value_and_threshold(printed, name, width):
    lines = printed(name, width, "-v").splitlines()
    if width >= 80:  # the tables have that width
        assert not [line for line in lines if is_breakable(line, width)]
    rows = [" ".join(line.split()) for line in lines]
    found = fit(EARLY, optimizer="sgd").checks
    assert [check.rule for check in found] == list(RULES)
    at = next(i for i, row in enumerate(rows) if re.search(r"points .* not computed if below 20", row))
    for rule, row in zip(RULES, rows[at:], strict=False):
        assert re.fullmatch(
            rf"(checks )?{rule.name} (unknown|-?[\d.,e+-]+|inf) {re.escape(rule.advice)} (ok|not checked|[A-Z ]+)", row
        ), row
    for schedule in ("refined", "recommended", "linear", "cosine"):
        assert any(re.match(rf"(schedules )?{schedule} [\d.]+ ", row) for row in rows)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_much_to_say_is_cut_where_it_matters_least(columns, width):
    columns(width)
    result = crafted()
    assert len(result.assumptions) >= 4
    lines = result.summary().splitlines()
    assert len(lines) <= MOST_LINES - 3
    assert not [line for line in lines if is_breakable(line, width)]
    text = " ".join(" ".join(lines).split())
    for assumption in result.assumptions:
        assert assumption in text
    assert "15 rows dropped" in text or "3 non-finite" in text
    assert re.search(r"remark \d+( more)?: see refine fit -v", text)
    verbose = " ".join(result.summary(verbose=True).split())
    for note in result.notes:
        assert note in verbose
    assert '"trainer/global_step_in_optimizer_updates"' in verbose


def test_what_there_is_room_for_is_said(columns):
    columns(120)
    text = crafted(notes=1).summary()
    assert "note 0: something that a reader saw" in text
    assert "refine fit -v" not in fit(EARLY, optimizer="sgd", prior_schedule="linear").summary()


def test_the_first_word_says_when_nothing_was_refined(printed):
    lines = printed("few", 100).splitlines()
    assert lines[0].startswith(
        "NOT refined  linear decay over 12 updates stands in its place; not computed: 12 norms are too few"
    )
    assert lines[-1] == 'use          scheduler = make_scheduler(optimizer, schedule="recommended")'


def test_only_what_kept_it_from_being_computed_is_given_as_the_reason():
    result = fit(np.geomspace(1.0, 0.1, 12), optimizer="adam")
    assert len(result.against) > 1
    assert "12 norms are too few" in result.summary()
    assert "more reason" not in result.summary()


def test_which_schedule_is_the_one_to_use_is_said(printed, run, make_log, columns):
    columns(115)
    norms = np.linspace(1.0, 0.9, 400)
    log = make_log(step=T, grad_norm=norms, lr=np.full(400, 0.1))
    result = fit(str(log), optimizer="sgd")
    lines = run("fit", log, "--optimizer", "sgd").stdout.splitlines()
    assert result.default == ("recommended" if result.against else "refined")
    other = "refined" if result.against else "recommended"
    assert lines[-1] == (
        f'use          scheduler = make_scheduler(optimizer, schedule="{result.default}")  # or "{other}"'
    )
    assert ("not recommended: " in lines[0]) == bool(result.against)
    assert not result.against
    assert "its bound in theory is" in " ".join(lines[:2])


def test_a_peak_at_the_end_of_the_warmup_is_told_by_the_count_that_recommended_tells(columns):
    columns(115)
    result = fit(np.linspace(1.0, 1.05, 400), optimizer="adam", prior_schedule="linear:warmup_steps=40")
    assert "refined      peaks after the warmup, 40 of 400 updates, then falls" in result.summary()
    assert "recommended  linear decay over 400 updates, the first 40 of them warmup" in result.summary()
    assert np.argmax(result.refined.multiplier) == 39


def test_the_published_schedule_is_told_to_have_no_warmup():
    early = np.r_[4.0, 3.9, 3.8, np.linspace(1.0, 1.05, 397)]
    how = {"optimizer": "adam", "smoothing": 0.0, "prior_schedule": "linear:warmup_steps=40"}
    assert "peaks after the warmup" in fit(early, **how).summary()
    published = fit(early, **how, published=True)
    assert published.summary().startswith("refined      as published, rises to its peak at 1 % of 400 updates")


def test_an_equal_bound_is_told_in_words():
    said = " ".join(fit(np.ones(400), optimizer="adam").summary().split())
    assert "its bound in theory is that of linear decay" in said


def test_rates_of_a_part_of_the_run_suggest_no_peak():
    rates = np.r_[np.full(200, np.nan), RATES[200:]]
    norms = GradientNorms.from_values(EARLY, learning_rate=rates)
    said = " ".join(fit(norms, optimizer="adam").summary().split())
    assert "no learning rate is suggested: the rates are known for a part of the logged run only" in said


def test_the_peak_is_told_once_where_both_are_equal():
    assert "peak         1.00 x the old with recommended and refined: all rates add up to the old sum" in (
        fit(np.ones(40), optimizer="adam", prior_schedule="cosine").summary()
    )


def test_numbers_stay_with_their_unit(columns):
    for width in range(60, 121):
        columns(width)
        for verbose in (False, True):
            text = fit(EARLY, optimizer="sgd").summary(verbose=verbose)
            assert not re.search(r"\n +%", text)
            assert not re.search(r"\(1 -?\n|\(1 - *\n", text)


def test_to_dict_is_json_of_what_there_is():
    for result in (crafted(), fit(EARLY[:12]), fit(np.exp(-T / 9.0)), fit(EARLY, optimizer="sgd", published=True)):
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert [row["name"] for row in data["schedules"]] == ["refined", "recommended", "linear", "cosine"]
        for row in data["schedules"]:
            assert {"warmup_fraction", "peak_fraction", "decay_exponent", "decay_r2", "relative_bound"} <= set(row)
            assert {"peak_lr_ratio", "suggested_peak_lr", "total_steps"} <= set(row) | {"total_steps"}
        assert (data["recommended"]["name"], data["recommended"]["reason"]) == (result.shape, result.reason)
        assert data["already_ran"] is result.already_ran
        assert (data["worth"] is None) == (result.worth is None)
        if data["worth"]:
            assert set(data["worth"]) == {"cases", "median", "low", "high", "unit"}
        assert data["default"] == result.default
        assert [flag["name"] for flag in data["flags"]] == [rule.name for rule in RULES]
        assert data["assumptions"] == list(result.assumptions)
        assert data["warnings"] == list(result.warnings)
        assert data["not_recommended"] == [check.words for check in result.against]
