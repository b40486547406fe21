"""The committed report is what the committed results say, and the README says nothing else."""

import re
from pathlib import Path

import pytest

from refine.bench.reporting import statistics
from refine.bench.reporting.report import write_report
from refine.bench.reporting.results import load

ROOT = Path(__file__).parents[2]
RESULTS = [ROOT / "docs/bench/results" / suite for suite in ("convex", "deep")]


def test_the_report_is_made_from_the_results(tmp_path) -> None:
    for path in write_report(RESULTS, tmp_path):
        if path.suffix == ".md":
            assert (ROOT / "docs/bench" / path.name).read_text() == path.read_text()
        else:
            assert path.suffix == ".html" or (ROOT / "docs/bench" / path.name).is_file()


def counted(suite: int, method: str) -> tuple[int, int, int]:
    """Cells won, tied, lost at the swept rate."""
    found = statistics.cells(statistics.paired(load(RESULTS[suite]).runs))
    own = found[(found["method"] == method) & (found["rates"] == "swept")]["verdict"]
    return (own == "win").sum(), (own == "tie").sum(), (own == "loss").sum()


@pytest.mark.parametrize(
    ("suite", "method", "name"),
    [
        (0, "paper(linear)", "the published method on 40 convex cells"),
        (0, "refined(linear)", "the default there"),
        (1, "refined(linear)", "the default on 8 small deep ones"),
    ],
)
def test_the_readme_quotes_the_results(suite: int, method: str, name: str) -> None:
    won, tied, lost = counted(suite, method)
    text = " ".join((ROOT / "README.md").read_text().split())
    assert re.search(rf"{name} {won} / {tied} / {lost}", text), (won, tied, lost)
