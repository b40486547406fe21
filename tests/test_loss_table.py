import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from refine import fit_loss, from_name, linear
from refine.figures import save_figure
from refine.loss_choice import choose
from refine.loss_figure import apart, plot_predictions
from refine.loss_table import DEFAULT_NAMES, law_to_dict, predict_named

from .test_prediction import STEPS, run

KEYS = [
    "name",
    "total_steps",
    "peak_lr",
    "final_loss",
    "low",
    "high",
    "difference_from_linear",
    "difference_low",
    "difference_high",
    "verdict",
]


@pytest.fixture(scope="module")
def law():
    return fit_loss(run(name="a.csv"))


def test_rows_are_sorted_and_linear_is_always_among_them(law):
    table = predict_named(law, ["cosine", "constant"], total_steps=5_000)
    assert [row.prediction.name for row in table.rows][-1] == "constant"
    assert {row.prediction.name for row in table.rows} == {"linear", "cosine", "constant"}
    losses = [row.prediction.final_loss for row in table.rows]
    assert losses == sorted(losses)
    rows = table.to_dicts()
    assert [list(row) for row in rows] == [KEYS] * 3
    (own,) = (row for row in rows if row["name"] == "linear")
    assert (own["difference_from_linear"], own["verdict"]) == (0.0, "tie")
    for row in rows:
        assert row["low"] < row["final_loss"] < row["high"]
        assert row["difference_from_linear"] == pytest.approx(row["final_loss"] - own["final_loss"], abs=1e-12)
        assert row["difference_low"] <= row["difference_from_linear"] <= row["difference_high"]
        assert (row["total_steps"], row["peak_lr"]) == (5_000, pytest.approx(1e-3))
    json.dumps(rows)


def test_linear_has_the_length_of_a_file(law):
    table = predict_named(law, {"mine": linear(2_000)})
    assert {row.prediction.total_steps for row in table.rows} == {2_000}


def test_families_have_the_length_of_the_files_beside_them(law, tmp_path):
    path = str(linear(2_000).save(tmp_path / "mine.csv"))
    for wanted in ({"mine": linear(2_000), "cosine": "cosine"}, [path, "cosine"]):
        assert set(law.compare(wanted).to_frame().total_steps) == {2_000}
        assert set(law.compare(wanted, total_steps=3_000).to_frame().total_steps) == {3_000}


def test_each_horizon_is_compared_with_its_own_linear_decay(law):
    table = predict_named(law, {"long": linear(9_000), "short": from_name("wsd:0.2", 2_000), "linear": "linear"})
    rows = {row.prediction.name: row for row in table.rows}
    assert rows.keys() == {"long", "short", "linear", "linear, 2,000 updates", "linear, 9,000 updates"}
    for row in table.rows:
        assert row.reference.total_steps == row.prediction.total_steps
        assert row.difference.value == row.prediction.final_loss - row.reference.final_loss
    assert abs(rows["long"].difference.value) < 0.01  # but for the warmup
    assert rows["linear"].is_reference
    text = table.summary()
    assert "updates  final loss" in text
    assert "each difference is from linear decay over the same number of updates" in text
    upper, lower = plot_predictions(table).axes
    assert {text.xy[0] for text in texts(upper.figure)} == {2_000, 4_000, 9_000}
    assert len(lower.get_lines()) == 5 + 1


def test_the_table_says_what_was_read_and_how_sure_it_is(law):
    text = law.compare(total_steps=12_000).summary()
    assert text.startswith(
        "log       a.csv: validation loss, column loss; 86 points from update 600 to 4,000 of 4,000, peak"
    )
    assert "law       memory: L = " in text
    assert "final loss      +-  from linear      +-" in text
    assert "bars      90 %, calibrated on " in text
    assert "12,000 updates are more than twice the 4,000 that are logged" in " ".join(text.split())
    assert all(name in text for name in DEFAULT_NAMES)
    assert "exponents" not in text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_text_fits_the_terminal(law, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = law.compare(total_steps=12_000).summary(verbose=True).splitlines()
    assert max(map(len, lines)) <= max(columns, 66)  # the table


@pytest.mark.parametrize("columns", [60, 80])
def test_tables_are_cut_to_what_fits_the_terminal(law, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = law.compare({"x" * 100: "cosine"}).summary(verbose=True).splitlines()
    assert max(map(len, lines)) == max(columns, 68)  # on any terminal a name keeps 22 letters
    lines = choose(law, "horizon").summary().splitlines()
    assert max(map(len, lines)) <= max(columns, 71)
    assert any(line.startswith("linear, 16,000 updates  ") for line in lines)
    assert "differences are from linear, 4,000 updates" in " ".join(lines)


def test_verbose_shows_exponents_and_other_laws(law):
    text = law.compare().summary(verbose=True)
    assert "exponents alpha" in text
    assert "by law" in text
    assert "general" in text
    other = fit_loss(run(), law="two")
    assert f"{other.predict('cosine', points=1).final_loss:.4f}" in text


def test_names_are_shown_escaped():
    law = fit_loss(run(name="a\x1b[31m.csv"))
    table = law.compare({"x\ny<b>": "linear"})
    assert "\x1b" not in table.summary()
    assert "<b>" not in table._repr_html_()
    assert "<table" in law._repr_html_()


def test_frames(law):
    frame = law.compare().to_frame()
    assert frame.index.name == "name"
    assert list(frame.columns) == KEYS[1:]
    points = law.to_frame()
    assert list(points.columns) == ["run", "step", "loss", "fitted", "sigma"]
    assert np.abs(points.fitted / points.loss - 1.0).max() < 0.01
    assert set(points.run) == {"a.csv"}


def test_the_law_as_json_values(law):
    found = json.loads(json.dumps(law_to_dict(law)))
    assert found["name"] == "memory"
    assert found["exponents"].keys() == {"alpha", "p", "c", "s", "delta"}
    assert found["coefficients"].keys() == {"L0", "A", "B"}
    assert (found["points"], found["means"]) == (86, 86)
    assert (found["files"], found["sort"]) == (["a.csv"], "validation")
    many = law_to_dict(fit_loss(run(every=4)))
    assert (many["points"], many["means"]) == (851, 100)
    assert found["calibrated_on"]["groups"] >= 3


def texts(figure):
    return [text for text in figure.axes[0].texts if "±" in text.get_text()]


@pytest.mark.parametrize("count", [1, 3, 14])
def test_labels_stand_at_the_ends_and_none_over_another(law, count):
    names = [f"wsd:{0.05 + 0.06 * i:.2f}" for i in range(count)]
    figure = plot_predictions(law.compare(names, total_steps=8_000))
    FigureCanvasAgg(figure).draw()
    labels = texts(figure)
    assert len(labels) == count + 1  # linear
    boxes = [Text.get_window_extent(label) for label in labels]  # without its leader
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    inside = figure.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


def test_lines_bands_rates_and_the_end_of_the_log(law):
    table = law.compare(["cosine", "wsd:0.3"], total_steps=8_000)
    upper, lower = plot_predictions(table).axes
    assert len(upper.collections) == 3  # bands
    assert len(lower.get_lines()) == 3 + 1
    for row in table.rows:
        assert any(np.array_equal(line.get_ydata(), row.prediction.losses) for line in upper.get_lines())
    assert any(list(line.get_xdata()) == [STEPS, STEPS] for line in upper.get_lines())
    assert any(text.get_text().strip() == "the log ends" for text in upper.texts)
    same = plot_predictions(law.compare(["cosine"])).axes[0]
    assert not any(text.get_text().strip() == "the log ends" for text in same.texts)
    low, high = upper.get_ylim()
    assert low < min(row.prediction.low for row in table.rows)
    assert high < run().losses.max()  # the first, steep part is cut


def test_many_schedules_leave_colours_to_a_few(law):
    table = law.compare([f"wsd:{x / 20:g}" for x in range(1, 13)], total_steps=8_000)
    upper, _ = plot_predictions(table).axes
    colours = [label.get_color() for label in texts(upper.figure)]
    assert colours.count("#5a5a5a") == len(table.rows) - 5
    assert len(upper.collections) == 2  # the best and linear


def test_leaders_start_at_their_own_labels(law):
    figure = plot_predictions(law.compare([f"wsd:{x / 20:g}" for x in range(1, 15)], total_steps=8_000))
    FigureCanvasAgg(figure).draw()
    for label in texts(figure):
        box = Text.get_window_extent(label)
        arrow = label.arrow_patch
        drawn = arrow.get_transform().transform_path(arrow.get_path()).vertices[0]
        assert abs(drawn[1] - 0.5 * (box.y0 + box.y1)) < 0.25 * box.height


def test_all_of_a_choice_of_a_horizon_is_drawn(law):
    table = choose(law, "horizon").table
    low, high = plot_predictions(table).axes[0].get_ylim()
    for row in table.rows:
        assert row.prediction.steps.size > 50
        assert low < row.prediction.low < row.prediction.high < high


def test_a_horizon_shorter_than_the_log_has_the_range_of_its_own_losses(law):
    table = law.compare(total_steps=1_500)
    low, _ = plot_predictions(table).axes[0].get_ylim()
    assert run().losses[-1] < low < min(row.prediction.low for row in table.rows)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("日 $x$", r"\u65e5 $x$  "), ("日" * 90, r"\u65e5" * 5 + "\\...  "), ("Ж", "Ж  ")],
    ids=["short", "long", "known"],
)
def test_names_without_a_glyph_are_escaped(law, tmp_path, name, shown):
    figure = plot_predictions(law.compare({name: "cosine"}))
    save_figure(figure, tmp_path / "p.png")  # a warning would be an error
    assert any(text.get_text().startswith(shown) for text in texts(figure))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0], [0.75, 1.25]), ([2.0, 1.9, 0.0], [2.2, 1.7, 0.25]), ([9.0], [3.75])],
)
def test_labels_are_pushed_apart_and_into_the_axes(wanted, found):
    assert apart(np.array(wanted), 0.5, 0.0, 4.0) == pytest.approx(found)
