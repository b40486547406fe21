"""The committed report is what the committed results say, and the README says nothing else."""

from importlib.resources import files
from pathlib import Path

import pytest

from refine.bench.reporting import statistics
from refine.bench.reporting.changing import changing
from refine.bench.reporting.peaks import peaks
from refine.bench.reporting.report import write_report
from refine.bench.reporting.results import load
from refine.bench.reporting.selection import selection
from refine.bench.reporting.worth import worth_json

ROOT = Path(__file__).parents[2]
EVERY = ROOT / "docs/bench/results"
RESULTS = [EVERY / suite for suite in ("convex", "deep")]


def test_the_report_is_made_from_the_results(tmp_path) -> None:
    for path in write_report(RESULTS, tmp_path):
        if path.suffix == ".md":
            assert (ROOT / "docs/bench" / path.name).read_text() == path.read_text()
        else:
            assert path.suffix == ".html" or (ROOT / "docs/bench" / path.name).is_file()


def test_what_refinement_was_worth_is_made_from_the_results() -> None:
    assert (
        files("refine").joinpath("worth.json").read_bytes()
        == worth_json([*RESULTS, EVERY / "changing-confirm"]).encode()
    )


def test_the_pages_on_the_default_are_made_from_the_results() -> None:
    halves = [EVERY / f"{kind}-{half}" for half in ("choose", "confirm") for kind in ("convex", "deep")]
    pages = {
        "selection": (selection, [*sorted(EVERY.glob("recommended-*")), *halves]),
        "changing": (changing, sorted(EVERY.glob("changing-*"))),
        "peaks": (peaks, sorted(EVERY.glob("peaks-*"))),
    }
    for name, (page, folders) in pages.items():
        assert (ROOT / f"docs/bench/{name}.md").read_text() == page(folders), name


def counted(kind: str, method: str) -> str:
    """Cells won / tied / lost at the swept rate, with the tuned warmup."""
    suite = f"recommended-{kind}" if method == "default(linear)" else kind
    found = statistics.cells(statistics.paired(load(EVERY / suite).runs))
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
    assert f"| {name} | {counted('convex', method)} | {counted('deep', method)} |\n" in (ROOT / "README.md").read_text()
