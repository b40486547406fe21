import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose

from refine import (
    GradientNorms,
    RefineError,
    Schedule,
    compare,
    constant,
    cosine,
    from_name,
    linear,
    plot,
    refined_schedule,
    retarget,
)
from refine.figures import check_suffix, plot_comparison, plot_norms, plot_schedules, save_figure
from refine.prior import named_schedules, warmup_of

EARLY = 1 + 4 * np.exp(-np.arange(300) / 20)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def dashes(line):
    """Its pattern, whatever its width."""
    return tuple(line._unscaled_dash_pattern[1] or ())


RATES = linear(300, warmup_steps=20).multiplier


def of_loss(loss, values=EARLY, **how):
    norms = GradientNorms.from_values(values, kind="l1", learning_rate=0.1 * RATES, loss=loss)
    return refined_schedule(norms, optimizer="adam", **how)


HELD = 2.0 + 0.3 * (np.cumsum(RATES) / RATES.sum()) ** -0.46 + 0.05 * RATES
"""By a law much as the fitted one, with so little noise that the peak should be held."""

OF_HELD = of_loss(HELD)


@pytest.mark.parametrize(
    ("result", "drawn"),
    [
        (OF_HELD, ["refined", "recommended (held)", "linear", "cosine", "logged run"]),
        (of_loss(np.ones(300)), ["refined", "recommended (linear)", "cosine", "logged run = recommended"]),
        (
            of_loss(HELD, total_steps=900),
            ["refined", "recommended (held)", "linear", "cosine", "logged run (300 updates)"],
        ),
        (refined_schedule(EARLY, optimizer="adam"), ["refined", "recommended (linear)", "cosine"]),
        (refined_schedule(EARLY[:12], optimizer="adam"), ["recommended (linear; no refined)", "cosine"]),
    ],
)
def test_a_result_is_drawn_with_its_schedules_above_its_norms(result, drawn):
    figure = plot(result)
    upper, lower = figure.axes
    drawn = ["refined, not recommended" if name == "refined" and result.against else name for name in drawn]
    assert legend(upper) == list(lines_of(upper)) == drawn
    patterns = [dashes(line) for line in upper.get_lines()]
    assert len(set(patterns)) == len({line.get_color() for line in upper.get_lines()}) == len(drawn)
    for name, line in lines_of(upper).items():
        if not name.startswith("logged run"):
            kind = name.split(",")[0].split(" ")[0]
            assert_allclose(line.get_ydata(), result.schedules[kind].multiplier, rtol=0, atol=1e-15)
    assert upper.get_xlim() == (0, result.refined.total_steps)
    assert upper.get_xlabel() == "update of the next run"
    assert sorted(legend(lower)) == ["raw", "smoothed"]
    assert_allclose(lines_of(lower)["raw"].get_ydata(), result.norms.values)
    assert_allclose(lines_of(lower)["smoothed"].get_ydata(), result.smoothed)
    assert lower.get_yscale() == "log"
    assert lower.get_ylabel() == f"gradient norm ({result.norms.kind})"


def test_linear_decay_that_is_recommended_is_one_line():
    result = of_loss(np.ones(300))
    assert result.recommended == result.linear
    found = lines_of(plot(result).axes[0])
    assert "linear" not in found
    assert_allclose(found["recommended (linear)"].get_ydata(), result.linear.multiplier, rtol=1e-15)


def test_the_logged_run_is_stretched_to_the_updates_of_the_next():
    line = lines_of(plot(of_loss(HELD, total_steps=900)).axes[0])["logged run (300 updates)"]
    assert_allclose(line.get_xdata(), 3 * np.arange(300))
    assert_allclose(line.get_ydata(), RATES, atol=1e-12)


@pytest.mark.parametrize("result", [OF_HELD, of_loss(np.ones(300), total_steps=900)])
def test_nothing_of_the_figure_overlaps(result):
    figure = plot(result)
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    boxes = []
    for ax in figure.axes:
        legend_box = ax.get_legend().get_window_extent()
        assert not legend_box.overlaps(ax.get_window_extent().expanded(1.0, 0.98))
        boxes += [legend_box, ax.xaxis.label.get_window_extent()]
        assert ax.yaxis.label.get_window_extent().x0 >= page.x0
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_schedules_by_name_differ_in_dashes_too():
    names = ["linear", "cosine", "rex", "wsd:0.2", "constant", "one_cycle", "d2z"]
    drawn = plot({name: from_name(name, 100) for name in names}).axes[0].get_lines()
    assert len({dashes(line) for line in drawn}) == len(names)


def test_families_beside_a_file_have_its_warmup_and_say_so(tmp_path):
    file = str(linear(400, warmup_steps=40).save(tmp_path / "schedule.json"))
    names = [file, "cosine", "wsd:0.2", "linear:warmup_steps=0", "rex:warmup_fraction=0.5", "one_cycle", "wsd:1"]
    lines = plot(named_schedules(names)).axes[0].get_lines()
    drawn = [file, "cosine:warmup_steps=40", "wsd:0.2,warmup_steps=40", *names[3:]]
    assert [line.get_label() for line in lines] == drawn
    for line, name in zip(lines, drawn, strict=True):
        wanted = Schedule.load(file) if name == file else from_name(name, 400)
        assert_allclose(line.get_ydata(), wanted.multiplier, rtol=1e-12)
    longer = named_schedules([file, "cosine"], 1000)
    assert {name: s.total_steps for name, s in longer.items()} == {file: 400, "cosine:warmup_steps=40": 1000}
    assert list(named_schedules([file, "cosine"], 40)) == [file, "cosine"]
    assert list(named_schedules(["cosine"], 40)) == ["cosine"]


@pytest.mark.parametrize(
    ("schedule", "warmup"),
    [
        (linear(400, warmup_steps=40), 40),
        (linear(400, warmup_steps=40).resample(1000), 99),
        (retarget(linear(400, warmup_steps=40), 1000), 40),
        (retarget(linear(400, warmup_steps=40).resample(1000), 2000, warmup_steps=100), 100),
        (linear(400), 0),
        (Schedule(linear(400, warmup_steps=40).multiplier), 40),
        (Schedule(linear(400, warmup_steps=40).multiplier.round(3)), 40),
        (Schedule(linear(400).multiplier), 0),
        (Schedule(np.linspace(0.01, 1.0, 400)), 0),
        (Schedule(np.r_[np.linspace(0, 1, 50) ** 2, np.ones(50)]), 0),
        (Schedule(linear(400, warmup_steps=40).multiplier, {"warmup_steps": "many"}), 40),
        (Schedule(linear(400, warmup_steps=40).multiplier, {"warmup_steps": True}), 40),
        (retarget(linear(400, warmup_steps=40), 1000).resample(4000), 157),
        (Schedule(linear(400).multiplier, {"warmup_steps": 4000}), 0),
        (Schedule([1.0]), 0),
    ],
)
def test_the_warmup_of_a_schedule(schedule, warmup):
    assert warmup_of(schedule) == warmup


def test_no_line_is_drawn_across_a_long_gap():
    steps = np.r_[1:101, 301:401]
    ax = plot_norms(GradientNorms.from_values(np.ones(200), steps), np.ones(200))
    for line in ax.get_lines():
        assert np.flatnonzero(np.isnan(line.get_xdata())).tolist() == [100]


@pytest.mark.parametrize("span", [1.05, 3.0, 50.0, 1e4, 1e9])
def test_the_log_axis_has_a_few_labels_whatever_its_span(span):
    figure = plot({"x": linear(100)}, GradientNorms.from_values(np.geomspace(1.0, span, 100)))
    FigureCanvasAgg(figure).draw()
    ax = figure.axes[1]
    low, high = ax.get_ylim()
    shown = [t for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_text()]
    assert 2 <= len(shown) <= 10


def test_a_schedule_alone_can_be_drawn():
    assert legend(plot(linear(10)).axes[0]) == ["schedule"]


def test_lines_hold_the_multipliers():
    (line,) = plot_schedules({"x": linear(50)}).get_lines()
    assert np.array_equal(line.get_ydata(), linear(50).multiplier)
    long = linear(1_000_000)
    (line,) = plot_schedules({"x": long}).get_lines()
    assert line.get_xdata().size <= 2_000
    assert np.array_equal(line.get_ydata(), long.multiplier[line.get_xdata()])


def test_many_raw_norms_are_drawn_as_their_range():
    values = np.exp(np.random.default_rng(0).standard_normal(100_000))
    ax = plot_norms(GradientNorms.from_values(values, kind="l1"))
    (band,) = ax.collections
    heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])
    assert heights.min() == values.min()
    assert heights.max() == values.max()
    assert ax.get_ylabel() == "gradient norm (l1)"


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
@pytest.mark.parametrize("name", ["$x^$", "_hidden", "a\nb", "\x1b[31m", "日本", "Ж"])
def test_hostile_names_are_drawn_as_they_are(tmp_path, suffix, name):
    figure = plot({name: linear(10), "b": linear(10, warmup_steps=3)})
    save_figure(figure, tmp_path / f"f{suffix}")
    first = legend(figure.axes[0])[0]
    assert first == name.replace("\n", r"\n").replace("\x1b", r"\x1b").replace("日本", r"\u65e5\u672c")
    assert (tmp_path / f"f{suffix}").stat().st_size > 1000


def test_the_figure_of_a_result_carries_its_provenance(tmp_path):
    result = refined_schedule(EARLY)
    for suffix in (".png", ".svg"):
        save_figure(result, tmp_path / f"f{suffix}")
        assert b"arXiv:2310.07831" in (tmp_path / f"f{suffix}").read_bytes()


def test_other_formats_are_refused():
    with pytest.raises(RefineError, match=r"x.gif must end in one of .png, .pdf, .svg: change the suffix"):
        check_suffix("x.gif")


def test_given_axes_are_used_and_returned():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert plot_schedules({"x": Schedule([1.0, 0.5])}, ax=ax) is ax
    assert plot_norms(GradientNorms.from_values(EARLY), ax=ax) is ax


def test_the_figure_of_a_log_shows_rates_and_where_it_was_clipped():
    from refine.figures import plot_log

    clipped = np.minimum(np.random.default_rng(0).lognormal(size=300), 1.5)
    norms = GradientNorms.from_values(clipped, learning_rate=np.linspace(0.1, 0.0, 300))
    upper, lower = plot_log(norms).axes
    labels = [text.get_text() for text in upper.get_legend().get_texts()]
    assert labels == ["raw", "smoothed", "clipped here"]
    assert upper.get_lines()[-1].get_ydata()[0] == 1.5
    np.testing.assert_allclose(lower.get_lines()[0].get_ydata(), norms.learning_rate)
    (single,) = plot_log(GradientNorms.from_values(np.random.default_rng(0).lognormal(size=50))).axes
    assert single.get_xlabel() == "update of the logged run"


def test_what_is_done_of_a_continued_run_is_marked():
    continued = Schedule(linear(100).multiplier, {"updates_done": 40})
    labels = [line.get_label() for line in plot(continued).axes[0].get_lines()]
    assert labels == ["schedule", "40 updates done"]
    assert [line.get_label() for line in plot(linear(100)).axes[0].get_lines()] == ["schedule"]


def test_a_comparison_has_a_curve_a_schedule_and_shares_colours():
    found = compare({"linear": linear(300), "cosine": cosine(300), "one": constant(300)})
    upper, lower = plot_comparison(found).axes
    assert [line.get_label() for line in upper.get_lines()] == [row.name for row in found.rows]
    for row, above, below in zip(found.rows, upper.get_lines(), lower.get_lines(), strict=True):
        assert above.get_color() == below.get_color()
        assert below.get_ydata()[-1] == pytest.approx(row.relative_bound, rel=1e-6)
    assert lower.get_yscale() == "log"


def test_a_legend_does_not_narrow_the_axes():
    rates = np.cos(np.pi / 2 * np.arange(400) / 400) ** 2
    result = refined_schedule(np.linspace(1.0, 2.0, 400), optimizer="adam", prior_schedule=Schedule(rates))
    figure = plot(result)
    FigureCanvasAgg(figure).draw()
    upper, lower = figure.axes
    assert legend(upper) == ["refined, not recommended", "recommended (linear)", "cosine", "logged run"]
    for ax in (upper, lower):
        assert ax.get_position().x1 > 0.93
