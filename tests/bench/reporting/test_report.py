"""The report says what the numbers say, whole and safe in Markdown and HTML, the same bytes each time."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from refine import RefineError
from refine.bench.reporting import document as doc
from refine.bench.reporting.figures import plot_check, plot_excess, plot_pairs, plot_ranks, svg
from refine.bench.reporting.report import build, write_report
from refine.bench.reporting.results import save

from .synthetic import results

HOSTILE = 'cnn <b>|$x$_*`"&\n#'
SECTIONS = [
    "How it was measured",
    "Against linear decay",
    "Ranks",
    "Problem by problem",
    "Losses of linear decay",
    "What the checks predict",
    "What hindsight would gain",
    "Cost",
    "Left out",
    "Machine and versions",
    "To reproduce",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    save(results(problems=6, seeds=5), place / "convex")
    deep = results(
        "deep", optimizers=("sgd", "adamw", "adamw, clipped"), seeds=5, seed=1, names=["mlp", HOSTILE, "gpt"]
    )
    save(deep, place / "deep")
    return [place / "convex", place / "deep"]


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return {path.name: path.read_text() for path in write_report(folders, out)}


class Page(HTMLParser):
    """Checks nesting; keeps tables, text by tag, and whatever might be loaded."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.texts, self.loaded = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.loaded += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action") and not v.startswith("#")]
        if tag in self.VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def tables(blocks, start=""):
    return [block for block in blocks if isinstance(block, doc.Table) and block.caption.startswith(start)]


def text(cell):
    return cell.text if isinstance(cell, doc.Cell) else cell


def row(table, name):
    return next([text(c) for c in each] for each in table.rows if text(each[0]) == name)


class TestFiles:
    def test_what_is_written(self, report):
        assert {"report.md", "report.html", "ranks-convex-sgd.svg", "excess-deep-adam.svg"} <= set(report)
        linked = set(re.findall(r"\]\(([^)]*)\)", report["report.md"]))
        assert linked == {name for name in report if name.endswith(".svg")}

    def test_the_same_bytes_again(self, report, folders, tmp_path):
        again = write_report(folders, tmp_path)
        assert {path.name: path.read_text() for path in again} == report

    def test_nothing_is_overwritten_unasked(self, tmp_path):
        save(results(problems=1, seeds=2, optimizers=("sgd",)), tmp_path / "in")
        (tmp_path / "report.md").write_text("mine")
        with pytest.raises(RefineError, match=r"report\.md exists; choose another place, or overwrite it"):
            write_report([tmp_path / "in"], tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "report.md"]
        assert tmp_path / "report.md" in write_report([tmp_path / "in"], tmp_path, force=True)

    def test_sections_in_order(self, report):
        assert re.findall(r"^## (.*)$", report["report.md"], re.MULTILINE) == SECTIONS
        assert [t for tag, t in Page(report["report.html"]).texts if tag == "h2"] == SECTIONS

    def test_pipes_agree(self, report):
        widths = []
        for line in report["report.md"].split("\n"):
            if line.startswith("|"):
                widths.append(len(re.findall(r"(?<!\\)\|", line)))
            elif widths:
                assert len(set(widths)) == 1
                assert len(widths) > 2
                widths = []

    def test_the_page_is_whole_and_loads_nothing(self, report):
        page = Page(report["report.html"])
        assert page.loaded == []
        assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", report["report.html"])
        assert "default-src 'none'" in report["report.html"]
        assert len(page.tables) == len(re.findall(r"^\| :--", report["report.md"], re.MULTILINE))
        assert all(len(set(table)) == 1 for table in page.tables)

    def test_names_are_escaped(self, report):
        shown = 'cnn <b>|$x$_*`"& #'
        assert any(data == shown for tag, data in Page(report["report.html"]).texts if tag == "th")
        assert "<b>" not in report["report.html"]
        assert r"cnn &lt;b&gt;\|$x$\_\*\`" in report["report.md"]

    def test_figures_are_legible_in_the_dark(self, report):
        for name, content in report.items():
            if name.endswith(".svg"):
                ElementTree.fromstring(content)
                assert "#ffffff" in content
        inline = report["report.html"].split("<figure>", 1)[1]
        assert "#ffffff" not in inline
        assert "#000000" not in inline
        assert "prefers-color-scheme: dark" in report["report.html"]

    def test_sorting_is_small(self):
        assert len(doc._SORT.strip().split("\n")) < 30


class TestContent:
    def test_headline(self, blocks):
        sentences = blocks[1].texts
        assert len(sentences) == 8
        assert [text.partition(",")[0] for text in sentences[:4]] == [
            "default(linear)",
            "unguarded(linear)",
            "refined(linear)",
            "paper(linear)",
        ]
        shown = row(tables(blocks, "convex, SGD: % over")[0], "default(linear)")[1]
        assert f": convex SGD {shown} cells" in sentences[0]
        wins, ties, losses = row(tables(blocks, "convex, SGD: % over")[0], "paper(linear)")[1].split(" / ")
        assert f"convex SGD {wins} / {ties} / {losses} cells" in sentences[3]
        assert int(losses) > int(wins)
        assert re.search(r"convex SGD -[01]\.\d\d \(p 0\.\d+", sentences[4])

    def test_the_baseline_is_zero_and_marked(self, blocks):
        assert row(tables(blocks, "convex, SGD: % over")[0], "linear")[1:5] == ["baseline", "0", "0", "0"]

    def test_rows_are_by_rank_and_marks_repeat_the_text(self, blocks):
        names = [text(r[0]) for r in tables(blocks, "convex, SGD: % over")[0].rows]
        assert names.index("refined(linear)") < names.index("linear") < names.index("constant")
        marks = {c.mark: c.text[-1] for t in tables(blocks, "convex, SGD, swept") for r in t.rows for c in r[2:] if c}
        assert (marks["win"], marks["loss"]) == ("W", "L")

    def test_what_is_missing_or_diverged(self, blocks):
        swept = tables(blocks, "convex, SGD, swept rates: ")[0]
        at = {text(name): i for i, name in enumerate(swept.header)}
        assert text(row(swept, "set 00")[at["mechanic"]]) == ""
        assert text(row(swept, "set 03")[at["prodigy"]]) == "diverged L"
        assert row(tables(blocks, "convex, SGD: % over")[0], "prodigy")[3] == "diverged"
        assert doc.Paragraph("Not ranked, for they lack a cell: mechanic.") in blocks

    def test_checks(self, blocks):
        table = tables(blocks, "convex, all optimizers: unguarded")[0]
        left_out, worst = table.header.index("left out: mean"), table.header.index("worst")
        assert row(table, "always linear")[left_out] == "0.00"
        assert float(row(table, "rho")[left_out]) < float(row(table, "always refined")[left_out])
        assert float(row(table, "rho")[worst]) < float(row(table, "always refined")[worst])
        assert row(table, "rho")[table.header.index("linear where (chosen)")].startswith("below 0.")
        assert row(table, "rho")[-1] == "below 0.3 or above 1.2"
        assert row(table, "late rise")[1] == "0"

    def test_cost(self, blocks):
        table = tables(blocks, "convex: cost")[0]
        assert row(table, "refined(refined(linear))") == [
            "refined(refined(linear))",
            "14.0",
            "14.0",
            "2.0",
            "17.0",
        ]

    def test_suites_and_families_are_apart(self, report):
        captions = re.findall(r"^\*\*(.*?): % over linear decay\*\*$", report["report.md"], re.MULTILINE)
        assert captions[:4] == ["convex, SGD", "convex, Adam family", "deep, SGD", "deep, Adam family"]

    def test_skipped_and_versions(self, blocks):
        assert ("convex", "aloi", "cannot be had: <offline> & _gone_") in tables(blocks, "Left out")[0].rows
        assert any("torch 2.13.0; finished 2025-01-02" in b.text for b in blocks if isinstance(b, doc.Paragraph))

    def test_scaled_losses_change_only_the_losses(self, of, blocks):
        again = build([replace(of, runs=of.runs.assign(loss=8.0 * of.runs["loss"]))])
        mine, other = (
            [b for b in bs if not getattr(b, "caption", "").endswith("mean over seeds")] for bs in (blocks, again)
        )
        assert mine == other

    @pytest.mark.parametrize("keep", ["linear", "linear cosine", "families"])
    def test_few_methods_and_no_logs(self, of, keep, tmp_path):
        runs, costs = (
            frame[
                ~frame["method"].str.contains("(", regex=False)
                if keep == "families"
                else frame["method"].isin(keep.split())
            ]
            for frame in (of.runs, of.costs)
        )
        save(replace(of, runs=runs, costs=costs, logs=of.logs.iloc[:0]), tmp_path / "in")
        write_report([tmp_path / "in"], tmp_path / "out")
        found = (tmp_path / "out" / "report.md").read_text()
        assert "refined(linear)" not in found
        assert "nan" not in found

    @pytest.mark.parametrize(
        "size", [{"problems": 1}, {"seeds": 1, "problems": 2}, {"optimizers": ("sgd",), "problems": 3}]
    )
    def test_small_suites(self, size):
        assert "nan" not in doc.to_markdown(build([results(**{"seeds": 3, **size})]))

    def test_what_is_refused(self, of):
        with pytest.raises(RefineError, match="no results to report; name at least one folder"):
            build([])
        with pytest.raises(RefineError, match="twice; give each folder of results once"):
            build([of, of])


class TestFigures:
    def test_ranks(self):
        ax = plot_ranks(["a", "$b$", "c"], [1.0, 2.0, 3.0], 0.5, baseline=1)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "$b$", "c"]
        band = ax.patches[0]
        assert (band.get_x(), band.get_width()) == (1.5, 1.0)
        assert ax.get_ylim()[0] > ax.get_ylim()[1]

    def test_excess(self):
        ax = plot_excess(["a", "b"], [[-1.0, 2.0, 3.0], [1.0, np.inf]])
        crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
        assert [line.get_ydata().tolist() for line in crosses] == [[1]]
        labels = [t.get_text() for t in ax.get_xticklabels()]
        assert labels[-1] == "diverged"
        assert {"-1", "0", "+1"} <= set(labels)

    def test_pairs(self):
        ax = plot_pairs(["p", "q"], {"m": ([1.0, np.nan], [0.25, np.nan]), "n": ([np.inf, -3.0], [np.nan, 1.0])})
        low, high = ax.get_xlim()
        assert low < -5.0 < 1.5 < high
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["m", "n"]

    def test_checks(self):
        ax = plot_check("rho", {"SGD": ([0.1, 0.5, np.nan], [3.0, -1.0, 2.0]), "Adam": ([1.0], [np.inf])})
        lines = [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == "--"]
        assert lines == [0.3, 1.2]

    def test_an_axes_of_ones_own(self):
        from matplotlib.figure import Figure

        ax = Figure().add_subplot()
        assert plot_excess(["a"], [[1.0]], ax=ax) is ax
        assert svg(ax, "x") == svg(ax, "x")

    def test_nothing_else_is_imported(self):
        code = (
            "import sys, refine.bench.reporting.report; from refine.bench.reporting.figures import *;"
            "svg(plot_excess(['a'], [[1.0]]), 'a');"
            "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
