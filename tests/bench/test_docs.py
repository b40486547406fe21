"""The committed report is what the committed results say, and the README says nothing else."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from refine.bench.reporting import statistics
from refine.bench.reporting.report import write_report
from refine.bench.reporting.results import load
from refine.bench.reporting.selection import selection
from refine.bench.reporting.worth import worth_json

ROOT = Path(__file__).parents[2]
HALVES = ("choose", "confirm")
RESULTS = [ROOT / "docs/bench/results" / suite for suite in ("convex", "deep")]


def test_the_report_is_made_from_the_results(tmp_path) -> None:
    for path in write_report(RESULTS, tmp_path):
        if path.suffix == ".md":
            assert (ROOT / "docs/bench" / path.name).read_text() == path.read_text()
        else:
            assert path.suffix == ".html" or (ROOT / "docs/bench" / path.name).is_file()


def test_what_refinement_was_worth_is_made_from_the_results() -> None:
    assert files("refine").joinpath("worth.json").read_bytes() == worth_json(RESULTS).encode()


def test_the_page_on_the_default_is_made_from_the_results() -> None:
    halves = [ROOT / "docs/bench/results" / f"{kind}-{half}" for half in HALVES for kind in ("convex", "deep")]
    assert (ROOT / "docs/bench/selection.md").read_text() == selection(halves)


def test_the_docs_quote_what_was_confirmed() -> None:
    confirmed = (ROOT / "docs/bench/selection.md").read_text().partition("## The half it was chosen on")[0]
    text = (ROOT / "docs/default.md").read_text()
    (ranks,) = re.findall(r"Mean rank, all suites.*", confirmed)
    for name in ("cosine", "default\\(linear\\)", "one-cycle", "wsd", "step"):
        (rank,) = re.findall(rf"{name} (\d\.\d\d)", ranks)
        assert rank in text, name
    for asked in ("each at its own swept rate", "without a sweep of its own"):
        (worst,) = re.findall(rf"Never worse.*{asked}: holds; worst (\S+) %", confirmed)
        assert f"worst {worst} ±" in text
    (most,) = re.findall(r"Without a sweep within.*holds; median 0.00 %, most \+(\S+) %", confirmed)
    assert f"most {most} %, median 0.00 %" in text


def counted(suite: int, method: str) -> str:
    """Cells won / tied / lost at the swept rate, with the tuned warmup."""
    found = statistics.cells(statistics.paired(load(RESULTS[suite]).runs))
    own = found[(found["method"] == method) & (found["rates"] == "swept") & (found["warmup"] != "fixed")]["verdict"]
    return " / ".join(str((own == verdict).sum()) for verdict in ("win", "tie", "loss"))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("paper(linear)", "the published method"),
        ("unguarded(linear)", "`refined`, before its dips were taken out"),
        ("default(linear)", "`recommended`"),
        ("1-sqrt", "1 - sqrt"),
        ("schedulefree", "schedule-free"),
        ("wsd", "WSD, cooldown 0.2"),
    ],
)
def test_the_readme_quotes_the_results(method: str, name: str) -> None:
    assert f"| {name} | {counted(0, method)} | {counted(1, method)} |\n" in (ROOT / "README.md").read_text()
