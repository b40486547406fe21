import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from refine import GradientNorms, RefineError, cosine, linear, read_norms, refined_schedule
from refine.default import SHAPES, progress_ratio
from refine.diagnostics import RULES
from refine.explanation import Change, explain
from refine.explanation_figure import draw
from refine.families import with_warmup
from refine.norms import Source
from refine.smoothing import smooth

T = np.arange(400)
RATES = np.minimum((T + 1) / 20, (400 - T) / 381) * 0.01
EARLY = 1 + 4 * np.exp(-T / 15)


def adam(loss, values=EARLY, rates=RATES, name="run.csv"):
    source = Source(name=name, format="CSV", columns={"norm": "g"}, optimizer="adam")
    return GradientNorms.from_values(values, kind="l1", learning_rate=rates, loss=loss, source=source)


def far(scale):
    """Adam, its loss above its end by ``scale`` times what its noise accounts for."""
    loss = scale * 0.5 * RATES * EARLY
    return adam(loss - loss[-1])


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def labels(ax):
    return [line.get_label() for line in ax.get_lines()]


def line(ax, label):
    (found,) = [each for each in ax.get_lines() if each.get_label() == label]
    return found


def test_the_arrays_are_those_of_the_definitions(root):
    norms = read_norms(root / "data" / "shakespeare_adamw.csv", norm_kind="l1")
    found = explain(norms)
    assert np.array_equal(found.squared, smooth(norms.values))
    np.testing.assert_allclose(found.travelled, np.cumsum(norms.learning_rate) / norms.learning_rate.sum(), rtol=1e-9)
    balance = found.balance
    end = norms.loss[-100:].mean()
    np.testing.assert_allclose(balance.excess, 2 * (norms.loss - end), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(balance.noise, norms.learning_rate * norms.values, rtol=1e-9)
    ratio = np.sum(balance.rates * balance.excess) / np.sum(balance.rates * balance.noise)
    assert ratio == pytest.approx(progress_ratio(norms.loss, norms.learning_rate, norms.values), rel=1e-9)
    data = found.to_dict()
    assert data["progress_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert data["weights_span"] == pytest.approx(found.squared.max() / found.squared.min(), rel=1e-12)
    assert data["rho"] == pytest.approx(found.squared[-1] / found.squared[100], rel=1e-12)
    assert (data["exponent"], data["smoothing_width"], data["constant_lr"]) == (1, 201, False)


def test_sgd_squares_the_norm_and_has_no_ratio(root):
    norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
    found = explain(norms)
    assert np.array_equal(found.squared, smooth(norms.values) ** 2)
    assert found.balance is None
    assert "Adam family" in found.ratio_unknown
    assert dict(found.steps)["N"].startswith("N = G^2 (optimizer sgd, from the log)")
    assert found.to_dict()["progress_ratio"] is None


def test_the_schedules_are_those_of_fit():
    found = explain(far(2.0), total_steps=900)
    assert found.result.schedule == refined_schedule(far(2.0), total_steps=900).schedule
    refined = refined_schedule(far(2.0), total_steps=900, mode="refined", guard=False).schedule
    assert found.refined.schedule == refined
    mode_linear = refined_schedule(far(2.0), total_steps=900, mode="linear").schedule
    np.testing.assert_allclose(found.linear.multiplier, mode_linear.multiplier, rtol=1e-12, atol=1e-15)
    assert found.headline == found.result.summary().splitlines()[0] == found.summary().splitlines()[0]


@pytest.mark.parametrize(("scale", "decision"), [(0.5, "linear"), (1.5, "later")])
def test_the_decision_is_told_with_what_it_changes(scale, decision):
    found = explain(far(scale))
    assert found.result.decision == decision
    straight = with_warmup(linear(400).multiplier, 20)
    apart = np.abs(found.result.schedule.multiplier - straight)
    assert found.changes["bend"] == Change(int((apart > 1e-12).sum()), apart.max() if decision == "later" else 0.0)
    text = dict(found.steps)["decide"]
    assert found.result.reason in text
    assert text.startswith(f"{SHAPES[decision]}: ")
    assert text.endswith("from linear decay " + str(found.changes["bend"]))


def test_a_near_separable_run_is_decided_by_the_other_threshold():
    falling = np.exp(-T / 100)
    loss = 0.25 * RATES * falling
    found = explain(adam(loss - loss[-1], falling))
    assert found.result.decision == "earlier"
    assert "earlier if below 1" in draw(found).axes[3].get_title(loc="left")
    assert dict(found.steps)["decide"].startswith("earlier than linear decay: ")


def test_the_guard_is_told_with_values_thresholds_and_what_it_changes():
    falling = explain(np.exp(-T / 60), optimizer="sgd")
    text = dict(falling.steps)["guard"]
    rho = falling.to_dict()["rho"]
    assert f"would fall back to linear decay, as rho {rho:.3g} is below 0.3" in text
    alone = refined_schedule(np.exp(-T / 60), optimizer="sgd", mode="refined", guard=False, prior_schedule="linear")
    weighted = alone.schedule.multiplier  # without a warmup
    most = np.abs(weighted - linear(400).multiplier).max()
    assert falling.changes["guard"].most == pytest.approx(most, rel=1e-12)
    assert f"{most:.3g} at most" in text

    kept = explain(EARLY, optimizer="adam")
    assert kept.changes["guard"] == Change(0, 0.0)
    assert "the guard changes no multiplier (0)" in dict(kept.steps)["guard"]


def test_every_raised_rule_is_named():
    found = explain(1 + T / 100, optimizer="sgd")
    raised = [flag for flag in found.refined.flags if flag.raised]
    assert raised
    for flag in raised:
        told = f"{flag.rule.name} {flag.value:.3g} is {flag.rule.side} {flag.rule.threshold:g}"
        assert told in dict(found.steps)["guard"]
    assert [flag["name"] for flag in found.to_dict()["refined_flags"]] == [rule.name for rule in RULES]


def test_the_warmup_is_told_with_what_it_changes():
    found = explain(far(0.5))
    before = linear(400).multiplier
    apart = np.abs(with_warmup(before, 20) - before)
    assert found.changes["warmup"] == Change(400, apart.max())
    refined = found.changes["warmup of refined"]
    assert 0 < refined.updates <= 400
    text = dict(found.steps)["warmup"]
    assert text.startswith("a line over the first 20 updates (as logged)")
    assert f"400 multipliers by {apart.max():.3g} at most" in text
    assert "(assumed)" in dict(explain(EARLY, optimizer="adam").steps)["warmup"]
    none = explain(EARLY, optimizer="adam", prior_schedule="linear")
    assert dict(none.steps)["warmup"] == "none is imposed: it changes no multiplier (0)"


def test_a_constant_rate_is_said_and_travels_as_time_does():
    norms = GradientNorms.from_values(EARLY, learning_rate=np.full(400, 0.1))
    found = explain(norms, optimizer="adam")
    np.testing.assert_allclose(found.travelled, (T + 1) / 400, rtol=1e-12)
    steps = dict(found.steps)
    assert steps["rates"] == "of the logged run, from the log: peak 0.1, warmup 0 updates, then constant"
    assert steps["peak"] == "no learning rate is suggested: equal area fails after a constant rate"
    assert steps["N"].endswith("half of the distance is travelled after 50% of the updates")
    assert found.to_dict()["constant_lr"] is True


def test_the_peak_advice_is_that_of_the_result():
    found = explain(far(1.5))
    ratio = found.result.peak_lr_ratio
    assert dict(found.steps)["peak"] == (
        f"learning rate {ratio:.2f} times the old peak, for equal area (0.01 becomes {0.01 * ratio:.3g})"
    )
    falling = GradientNorms.from_values(np.exp(-T / 60), learning_rate=0.01 * cosine(400).multiplier)
    assert dict(explain(falling, optimizer="sgd").steps)["peak"].endswith("norms that fall this far")


def test_a_log_that_stops_early_has_travelled_less():
    norms = GradientNorms.from_values(EARLY[:100], logged_steps=400)
    found = explain(norms, optimizer="adam", prior_schedule="linear", peak_lr=0.1)
    assert found.travelled[-1] == pytest.approx(1 - 300 * 301 / (400 * 401), rel=1e-9)
    draw(found)


def test_to_dict_is_json_without_nan():
    for norms in (far(1.5), GradientNorms.from_values([1.0, 2.0]), GradientNorms.from_values([1e200, 1e-200] * 20)):
        found = explain(norms)
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["steps"][0]["name"] == "read"
        FigureCanvasAgg(draw(found)).draw()


def test_the_figure_has_six_panels_with_their_lines():
    found = explain(far(1.5))
    figure = draw(found)
    FigureCanvasAgg(figure).draw()
    norms, rates, squared, decides, weights, schedules = figure.axes
    assert [ax.get_title(loc="left")[0] for ax in figure.axes] == list("123456")
    assert labels(norms) == ["raw", "smoothed"]
    assert norms.get_yscale() == "log"
    np.testing.assert_allclose(rates.get_lines()[0].get_ydata(), RATES, rtol=1e-9)
    assert np.array_equal(line(squared, "by the distance travelled").get_xdata(), found.travelled)
    assert np.array_equal(line(squared, "by time").get_ydata(), found.squared)
    assert labels(decides) == ["2 (loss - loss at the end)", "learning rate x N"]
    assert decides.get_title(loc="left") == f"4  Progress ratio {found.result.progress_ratio:.3g}: later if above 1.2"
    assert np.array_equal(weights.get_lines()[0].get_ydata(), found.result.weights)
    assert labels(schedules) == ["returned", "weights 1/N, no guard", "linear decay"]
    assert [each.get_linestyle() for each in schedules.get_lines()] == ["-", "--", ":"]
    assert np.array_equal(line(schedules, "returned").get_ydata(), found.result.schedule.multiplier)
    assert schedules.get_title(loc="left") == "6  Decided: later than linear decay"


def test_the_running_means_leave_a_constant_as_it_is():
    rates = 0.01 * linear(400).multiplier
    found = explain(adam(np.where(T < 380, 3.0, 1.0), 0.02 / rates, rates))
    decides = draw(found).axes[3]
    np.testing.assert_allclose(decides.get_lines()[0].get_ydata()[:300], 4.0, rtol=1e-9)
    np.testing.assert_allclose(decides.get_lines()[1].get_ydata()[:300], 0.02, rtol=1e-9)


def test_what_is_unknown_is_said_in_words():
    found = explain(EARLY, optimizer="adam")
    _, rates, squared, decides, _, _ = draw(found).axes
    assert "holds none" in texts(rates)
    assert labels(squared) == ["by time"]
    assert "without learning rates" in squared.get_title(loc="left")
    assert found.ratio_unknown in texts(decides).replace("\n", " ")
    assert not rates.axison
    steps = dict(found.steps)
    assert steps["rates"] == "of the logged run, unknown: peak unknown, warmup unknown"
    assert steps["N"].endswith("the distance travelled is unknown without learning rates")
    assert steps["peak"].endswith("the logged run has unknown rates")


def test_rates_of_a_part_of_the_run_are_drawn_as_such():
    partial = np.where(T < 200, RATES, np.nan)
    found = explain(GradientNorms.from_values(EARLY, learning_rate=partial), optimizer="adam")
    rates = draw(found).axes[1]
    assert "a part of the run only" in rates.get_title(loc="left")
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
