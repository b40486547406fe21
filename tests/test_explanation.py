import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import norm

from refine import GradientNorms, RefineError, Schedule, cosine, fit_loss, linear, read_norms, refined_schedule
from refine.default import CAUTION, scheduled, words
from refine.diagnostics import RULES
from refine.explanation import Change, explain
from refine.explanation_figure import draw
from refine.inputs import as_norms
from refine.norms import Source
from refine.worth import measured

T = np.arange(400)
RATES = np.minimum((T + 1) / 20, (400 - T) / 381) * 0.01
EARLY = 1 + 4 * np.exp(-T / 15)


def adam(loss, values=EARLY, rates=RATES, name="run.csv"):
    source = Source(name=name, format="CSV", columns={"norm": "g"}, optimizer="adam")
    return GradientNorms.from_values(values, kind="l1", learning_rate=rates, loss=loss, source=source)


def far(noise):
    """Adam, its loss by a law much as the fitted one: little noise wants the peak held, much of it a lower peak."""
    travelled, scatter = np.cumsum(RATES) / RATES.sum(), np.random.default_rng(0).normal(size=400)
    return adam((2 + 0.3 * travelled**-0.46 + noise * RATES / 0.01) * (1 + 0.003 * scatter))


def flat_rate():
    return GradientNorms.from_values(EARLY, learning_rate=np.full(400, 0.1))


def titles(figure):
    return [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes]


def labels(ax):
    return [line.get_label() for line in ax.get_lines()]


def line(ax, label):
    (found,) = [each for each in ax.get_lines() if each.get_label() == label]
    return found


def test_the_arrays_are_those_of_the_definitions(root):
    norms = read_norms(root / "data" / "shakespeare_adamw.csv", norm_kind="l1")
    found = explain(norms)
    assert np.array_equal(found.squared, norms.smoothed())
    np.testing.assert_allclose(found.travelled, np.cumsum(norms.learning_rate) / norms.learning_rate.sum(), rtol=1e-9)
    data = found.to_dict()
    assert data["weights_span"] == pytest.approx(found.squared.max() / found.squared.min(), rel=1e-12)
    assert data["rho"] == pytest.approx(found.squared[-1] / found.squared[100], rel=1e-12)
    assert (data["exponent"], data["smoothing_fraction"], data["constant_lr"]) == (1, 0.1, False)


def test_sgd_squares_the_norm(root):
    norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
    found = explain(norms)
    assert np.array_equal(found.squared, norms.smoothed() ** 2)
    assert dict(found.steps)["N"].startswith("N = G^2 (optimizer sgd, from the log)")


def test_the_schedules_are_those_of_fit():
    found = explain(far(0.05), total_steps=900)
    fitted = refined_schedule(far(0.05), total_steps=900)
    assert found.result.schedules == fitted.schedules
    head = fitted.summary(verbose=True).splitlines()[:4]
    assert found.summary().splitlines()[:4] == head
    assert found.headline.startswith(f"recommended: {words(fitted.choice, 900)}, the first 20 of them warmup; refined ")


@pytest.mark.parametrize(("noise", "decision"), [(1.0, "linear"), (0.05, "held")])
def test_the_decision_is_told_with_what_it_changes(noise, decision):
    found = explain(far(noise))
    choice = found.result.choice
    assert choice.shape == decision
    straight = linear(400, warmup_steps=20).multiplier
    apart = np.abs(found.result.recommended.multiplier - straight)
    wanted = Change(int((apart > 1e-12).sum()), apart.max()) if decision == "held" else Change(0, 0.0)
    assert found.changes["recommended"].updates == wanted.updates
    assert found.changes["recommended"].most == pytest.approx(wanted.most, abs=1e-12)
    text = dict(found.steps)["decide"]
    assert choice.reason in text
    assert text.startswith(words(choice, 400))
    default = found.result.default
    assert text.endswith(
        f"from linear decay that changes {found.changes['recommended']}; where none is named, {default} is used"
    )


def test_the_holds_are_what_the_law_foretells():
    found = explain(far(0.05))
    law, choice = fit_loss(found.result.norms), found.result.choice
    ks = [each.k for each in found.holds]
    assert ks == sorted(ks)
    assert (ks[0], ks[-1]) == pytest.approx((0.5, 20.0))
    assert choice.k in ks
    straight = law.predict(linear(400, warmup_steps=20), peak_lr=0.01, points=1)
    for each in (found.holds[0], found.holds[ks.index(choice.k)], found.holds[-1]):
        multiplier = scheduled(400, 20, each.k)
        held = law.predict(Schedule(multiplier / multiplier.max()), peak_lr=0.01 * multiplier.max(), points=1)
        apart = law.difference(held, straight)
        right = np.array([apart.value, apart.low, apart.high]) * 100 / straight.final_loss
        np.testing.assert_allclose([each.percent, each.low, each.high], right, rtol=1e-6)
        assert each.share == pytest.approx(max(0.0, 1 - 1 / each.k))
    costs = {
        each.k: each.percent + CAUTION * (each.high - each.low) / (2.0 * norm.ppf(0.95))
        for each in found.holds
        if each.share <= 0.8
    }
    assert costs[choice.k] < min(costs.values()) + 0.02  # chosen among twentieths of the run
    data = found.to_dict()
    assert (len(data["holds"]), data["holds_unknown"]) == (len(ks), None)
    assert data["holds"][0].keys() == {"k", "share", "percent", "low", "high"}


@pytest.mark.parametrize(
    ("make", "total_steps", "why"),
    [
        (lambda: adam(None), 400, "have no losses beside them"),
        (lambda: adam(np.linspace(3.0, 2.0, 400), rates=np.full(400, 0.1)), 400, "the rate never drops"),
        (
            lambda: adam(far(0.05).loss, rates=0.01 * linear(400).multiplier),
            4,
            "4 updates at a peak of 0.01 do not get",
        ),
    ],
)
def test_why_there_are_no_holds_stands_in_the_panel(make, total_steps, why):
    found = explain(make(), optimizer="adam", total_steps=total_steps)
    assert found.holds == ()
    assert why in found.holds_unknown
    data = found.to_dict()
    assert (data["holds"], data["holds_unknown"]) == ([], found.holds_unknown)
    (panel,) = (ax for ax in draw(found).axes if "How long" in ax.get_title(loc="left"))
    assert panel.get_title(loc="left").replace("\n", " ").endswith("How long to hold the peak: the losses do not say")
    (text,) = panel.texts
    assert " ".join(text.get_text().split()) == found.holds_unknown
    assert not panel.axison


def test_dips_are_filled_and_that_is_told():
    result = explain(EARLY, optimizer="adam").result
    assert explain(EARLY, optimizer="adam").changes["one rise, one fall"].most < 1e-3
    wavy = explain(1 + 0.8 * np.sin(T / 25), optimizer="sgd", prior_schedule="linear")
    change = wavy.changes["one rise, one fall"]
    assert change.most > 0.01
    dips = refined_schedule(1 + 0.8 * np.sin(T / 25), optimizer="sgd", prior_schedule="linear", published=True).refined
    assert (np.diff(dips.multiplier) > 0).sum() > 2
    filled = wavy.result.refined.multiplier
    peak = int(np.argmax(filled))
    assert np.diff(filled[: peak + 1]).min(initial=0.0) >= 0.0 >= np.diff(filled[peak:]).max()
    assert f"to one rise and one fall it takes a change of {change}" in dict(wavy.steps)["refine"]
    refined, straight = result.refined.multiplier, result.linear.multiplier
    most = np.abs(refined - straight).max()
    assert explain(EARLY, optimizer="adam").changes["refined"].most == pytest.approx(most, rel=1e-12)


def test_a_schedule_that_is_not_computed_is_said_to_be_so():
    found = explain(EARLY[:12], optimizer="adam")
    assert dict(found.steps)["refine"] == "not computed: 12 norms are too few"
    assert found.headline.endswith("; refined is not computed")
    assert found.summary().startswith("NOT refined  linear decay over 12 updates stands in its place; ")
    assert found.changes["refined"] == found.changes["one rise, one fall"] == Change(0, 0.0)


@pytest.mark.parametrize("values", [1 + T / 100, np.exp(-T / 60)])
def test_every_raised_rule_is_named(values):
    found = explain(values, optimizer="sgd")
    raised = [check for check in found.result.checks if check.raised]
    assert raised
    against, _, rest = dict(found.steps)["checks"].partition("; to know: ")
    for check in raised:
        told = f"{check.rule.name} {check.value:.3g} is {check.rule.side} {check.rule.threshold:g}"
        assert told in (against if check.against else rest)
    assert [flag["name"] for flag in found.to_dict()["flags"]] == [rule.name for rule in RULES]
    assert found.headline.endswith("refined is not recommended on this log")


def test_the_warmup_is_told():
    assert dict(explain(far(1.0)).steps)["warmup"] == (
        "below a line over the first 20 updates (as logged), then scaled to peak 1"
    )
    assert "(assumed)" in dict(explain(EARLY, optimizer="adam").steps)["warmup"]
    assert dict(explain(EARLY, optimizer="adam", prior_schedule="linear").steps)["warmup"] == "none is imposed"


def test_the_benchmark_cases_are_named_or_why_there_is_none(root):
    found = explain(root / "data" / "fashion_mnist_sgd.csv")
    worth = found.result.worth
    assert dict(found.steps)["worth"] == f"{worth.in_words()} ({', '.join(worth.problems)})"
    flat = GradientNorms.from_values(EARLY, learning_rate=np.full(400, 0.1))
    assert dict(explain(flat, optimizer="sgd").steps)["worth"] == (
        "no benchmark case is like this log: its rate did not fall about linearly, as theirs did"
    )
    assert "fewer than 3 of those with SGD" in dict(explain(1e-3 + 9e9 * T, optimizer="sgd").steps)["worth"]


def test_what_the_reader_and_the_log_note_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,grad_norm\n" + "".join(f"{t + 1},{EARLY[t]}\n" for t in T))
    found = explain([str(path), str(path)], optimizer="adam")
    (note,) = found.result.norms.source.notes
    text = " ".join(found.summary().split())
    assert f"remark {note}" in text
    for note in explain(flat_rate(), optimizer="adam").result.notes:
        assert note in " ".join(explain(flat_rate(), optimizer="adam").summary().split())


def test_a_constant_rate_is_said_and_travels_as_time_does():
    norms = GradientNorms.from_values(EARLY, learning_rate=np.full(400, 0.1))
    found = explain(norms, optimizer="adam")
    np.testing.assert_allclose(found.travelled, (T + 1) / 400, rtol=1e-12)
    steps = dict(found.steps)
    assert steps["rates"] == "of the logged run, from the log: peak 0.1, warmup 0 updates, then constant"
    assert (
        steps["peak"]
        == "no learning rate is suggested: the rule for it, equal sums of rates, fails after a constant rate"
    )
    assert steps["N"].endswith("half of the distance is travelled after 50% of the updates")
    assert found.to_dict()["constant_lr"] is True


def test_the_peak_advice_is_that_of_the_result():
    found = explain(far(0.05))
    advice = found.result.choice.peak_advice
    assert advice.startswith("the peak is low for this horizon")
    assert dict(found.steps)["peak"] == (
        f"of recommended 1.00 times the old peak, for which the hold was chosen (0.01 becomes 0.01); {advice}"
    )
    plain = explain(adam(None, rates=0.01 * cosine(400, warmup_steps=20).multiplier))
    ratio = plain.result.measures["recommended"].peak_lr_ratio
    assert dict(plain.steps)["peak"] == (
        f"of recommended {ratio:.2f} times the old peak, for equal area (0.01 becomes {0.01 * ratio:.3g})"
    )
    falling = GradientNorms.from_values(np.exp(-T / 60), learning_rate=0.01 * cosine(400).multiplier)
    assert dict(explain(falling, optimizer="sgd").steps)["peak"].endswith("norms that fall this far")


def test_a_log_that_stops_early_has_travelled_less():
    norms = GradientNorms.from_values(EARLY[:100], logged_steps=400)
    found = explain(norms, optimizer="adam", prior_schedule="linear", peak_lr=0.1)
    assert found.travelled[-1] == pytest.approx(1 - 300 * 301 / (400 * 401), rel=1e-9)
    draw(found)


def test_to_dict_is_json_without_nan():
    for norms in (
        far(0.05),
        far(1.0),
        GradientNorms.from_values([1.0, 2.0]),
        GradientNorms.from_values([1e200, 1e-200] * 20),
    ):
        found = explain(norms)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["steps"][0]["name"] == "read"
        FigureCanvasAgg(draw(found)).draw()


def seeds(tmp_path):
    logs = []
    for i in range(3):
        values = EARLY * np.random.default_rng(i).lognormal(sigma=0.1, size=400)
        logs.append(str(tmp_path / f"{i}.csv"))
        rows = zip(T + 1, values, RATES, strict=True)
        (tmp_path / f"{i}.csv").write_text("step,grad_norm,lr\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    return as_norms(logs)[0]


PANELS = [
    "Norms",
    "The logged run's",
    "N by time",
    "The weights",
    "How long to hold",
    "What refinement",
    "The schedules",
]
PANELS += ["Loss: logged"]
LOGS = {
    "all": (lambda _: far(0.05), [0, 1, 2, 3, 4, 5, 6, 7]),
    "rates": (lambda _: GradientNorms.from_values(EARLY, learning_rate=RATES), [0, 1, 2, 3, 4, 5, 6]),
    "constant rate": (lambda _: flat_rate(), [0, 1, 2, 3, 4, 5, 6]),
    "nothing": (lambda _: GradientNorms.from_values(EARLY), [0, 2, 3, 4, 5, 6]),
    "few": (lambda _: GradientNorms.from_values(EARLY[:5]), [0, 2, 3, 4, 5, 6]),
    "pooled": (seeds, [0, 1, 2, 3, 4, 5, 6]),
    "vanishing": (lambda _: GradientNorms.from_values(np.exp(-T / 9.0)), [0, 2, 3, 4, 5, 6]),
}


def has_data(ax):
    drawn = [line for line in ax.get_lines() if np.isfinite(np.asarray(line.get_ydata(), dtype=float)).sum() > 1]
    return bool(drawn) or any(len(path.vertices) for each in ax.collections for path in each.get_paths())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", LOGS)
def test_no_panel_is_empty_and_nothing_overlaps(name, optimizer, tmp_path):
    make, panels = LOGS[name]
    figure = draw(explain(make(tmp_path), optimizer=optimizer, total_steps=700))
    FigureCanvasAgg(figure).draw()
    shown = titles(figure)
    assert [title.split("  ", 1)[0] for title in shown] == [str(i + 1) for i in range(len(panels))]
    started = sorted(PANELS.index(next(p for p in PANELS if title.split("  ", 1)[1].startswith(p))) for title in shown)
    assert started == sorted(panels)
    assert all((ax.axison and has_data(ax)) or ax.texts for ax in figure.axes)
    boxes = [figure._suptitle.get_window_extent()]
    for ax in figure.axes:
        own = [ax._left_title.get_window_extent(), ax.xaxis.label.get_window_extent()]
        if ax.get_legend() is not None:
            own.append(ax.get_legend().get_window_extent())
        assert not any(box.overlaps(ax.get_window_extent().expanded(1.0, 0.98)) for box in own)
        boxes += own
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    page = figure.bbox.expanded(1.001, 1.001)
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)


def test_the_figure_has_the_lines_of_its_panels():
    found = explain(far(0.05))
    result = found.result
    norms, rates, squared, weights, holds, worth, losses, schedules = draw(found).axes
    assert labels(norms) == ["raw", "smoothed"]
    assert norms.get_yscale() == "log"
    np.testing.assert_allclose(rates.get_lines()[0].get_ydata(), RATES, rtol=1e-9)
    assert np.array_equal(line(squared, "by the distance travelled").get_xdata(), found.travelled)
    assert np.array_equal(line(squared, "by time").get_ydata(), found.squared)
    assert np.array_equal(line(holds, "predicted").get_ydata(), [each.percent for each in found.holds])
    (band,) = holds.collections
    ends = {each.k: (each.low, each.high) for each in found.holds}
    corners = band.get_paths()[0].vertices
    assert all(any(np.allclose((x, y), (k, end)) for k in ends for end in ends[k]) for x, y in corners)
    (at,) = line(holds, "recommended").get_xdata()
    assert at == result.choice.k
    assert line(holds, "recommended").get_ydata()[0] in [
        each.percent for each in found.holds if each.k == found.result.choice.k
    ]
    assert holds.get_title(loc="left") == f"5  How long to hold the peak: {100 * result.choice.hold:.0f} % of the run"
    holds.figure.canvas.draw()
    ticks = [tick.get_text() for tick in holds.get_xticklabels()]
    assert ticks == ["peak/2", "0 %", "50 %", "75 %", "90 %", "95 %"]
    assert np.array_equal(weights.get_lines()[0].get_ydata(), result.weights)
    assert f"{result.worth.median:+.2g} %" in worth.get_title(loc="left")
    title = schedules.get_title(loc="left").replace("\n", " ")
    assert title == f"8  The schedules; where none is named, {result.default} is used"
    assert labels(losses) == ["logged", "the law", "refined", "recommended", "linear"]
    assert line(losses, "linear").get_ydata()[-1] == pytest.approx(result.predicted["linear"].final_loss, rel=1e-3)
    recommended = line(schedules, "recommended (held)")
    assert np.array_equal(recommended.get_ydata(), result.recommended.multiplier)
    assert np.array_equal(schedules.get_lines()[0].get_ydata(), result.refined.multiplier)


def test_the_cases_like_the_log_are_marked(root):
    found = explain(root / "data" / "fashion_mnist_sgd.csv")
    (worth,) = (ax for ax in draw(found).axes if "What refinement" in ax.get_title(loc="left"))
    other, like = line(worth, "other cases"), line(worth, "cases most like this log")
    rho, _ = measured("sgd")
    assert other.get_xdata().size + like.get_xdata().size == rho.size
    assert like.get_xdata().size == found.result.worth.cases
    assert np.median(like.get_ydata()) == pytest.approx(found.result.worth.median)
    assert other.get_marker() != like.get_marker()
    assert line(worth, f"this log, {found.to_dict()['rho']:.2g}").get_linestyle() == "--"


def test_what_is_unknown_is_said_in_words():
    found = explain(EARLY, optimizer="adam")
    (squared,) = (ax for ax in draw(found).axes if "N by time" in ax.get_title(loc="left"))
    assert labels(squared) == ["by time"]
    assert "without learning rates" in squared.get_title(loc="left")
    steps = dict(found.steps)
    assert steps["rates"] == "of the logged run, unknown: peak unknown, warmup unknown"
    assert steps["N"].endswith("the distance travelled is unknown without learning rates")
    assert "neither loss nor noise speaks: its norms have no losses beside them" in steps["decide"]
    assert steps["peak"].endswith("the rates of the logged run are unknown (--prior-schedule, --peak-lr)")


def test_rates_of_a_part_of_the_run_are_drawn_as_such():
    partial = np.where(T < 200, RATES, np.nan)
    found = explain(GradientNorms.from_values(EARLY, learning_rate=partial), optimizer="adam")
    rates = draw(found).axes[1]
    assert rates.get_title(loc="left").replace("\n", " ").endswith("a part of the run only")
    assert np.array_equal(rates.get_lines()[0].get_ydata(), RATES[:200])
    assert "known of a part of it only" in dict(found.steps)["rates"]


@pytest.mark.parametrize("name", ["a $x^$ b", "$\\frac{$", "\x1b[31mred\n", "日本 é", "_x"])
def test_hostile_names_are_shown_as_they_are(tmp_path, name):
    found = explain(adam(None, name=name))
    assert "\x1b" not in found.summary()
    assert len(found.summary().splitlines()) < 40
    assert "\n" not in dict(found.steps)["read"]
    for suffix in (".png", ".svg", ".pdf"):
        draw(found, tmp_path / f"f{suffix}")
    shown = draw(found).get_suptitle().splitlines()[0]
    assert shown == name.encode("latin-1", "backslashreplace").decode("latin-1").replace("\x1b", r"\x1b").replace(
        "\n", r"\n"
    )


def test_a_file_is_kept_unless_it_is_to_be_replaced(tmp_path):
    found = explain(EARLY, optimizer="adam")
    path = tmp_path / "explain.png"
    path.write_text("mine")
    with pytest.raises(RefineError, match="exists; choose another place"):
        draw(found, path)
    assert path.read_text() == "mine"
    draw(found, path, force=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RefineError, match="must end in one of"):
        draw(found, tmp_path / "explain.gif")


def test_a_given_figure_is_drawn_in_and_returned():
    figure = Figure(figsize=(12, 9))
    assert draw(explain(EARLY, optimizer="adam"), figure) is figure
    assert len(figure.axes) == 6
