from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from refine.cli.main import main

from refine.bench.reporting.changing import changing
from refine.bench.reporting.results import Results, load
from refine.bench.reporting.selection import selection
from refine.bench.reporting.worth import worth_json
from refine.bench.store import Store
from refine.bench.suites import SUITES

from .reporting.synthetic import results
from .reporting.test_selection import default, folder, pair

OFFERED = (
    *("smoke", "convex", "deep", "recommended-convex", "recommended-deep"),
    *("convex-choose", "deep-choose", "changing-choose", "changing-deep-choose", "peaks-choose"),
    *("convex-confirm", "deep-confirm", "changing-confirm", "changing-deep-confirm", "peaks-confirm"),
    *("peaks-deep", "paper"),
)


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["bench", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), f"say which suite: --suite {'|'.join(OFFERED)}, or refine bench report STORE"),
        (("--suite", "all"), f"'all' is not one of {', '.join(map(repr, OFFERED))}"),
        (("--suite", "paper"), "--suite paper needs the folder of the paper's logs: --logs DIR"),
        (("--suite", "smoke", "--logs", "x"), "--logs, --out and --force go with --suite paper; leave them out"),
        (("--suite", "paper", "--logs", "x", "--store", "s"), "--suite paper trains nothing: leave --store out"),
        (("--suite", "paper", "--logs", "x", "--only", "dna"), "--suite paper trains nothing: leave --only out"),
        (("--suite", "paper", "--logs", "x", "--engine", "dask"), "--suite paper trains nothing: leave --engine out"),
        (("--suite", "smoke", "--out", "x"), "--logs, --out and --force go with --suite paper; leave them out"),
        (("--suite", "smoke", "report", "s"), "--suite is for refine bench itself; leave it out, or the command"),
        (("--only", "iris", "report", "s"), "--only is for refine bench itself; leave it out, or the command"),
        (("--store", "x", "report", "s"), "--store is for refine bench itself"),
        (("--scale", "cpu", "report", "s"), "--scale is for refine bench itself"),
        (("--engine", "local", "report", "s"), "--engine is for refine bench itself"),
        (("--jobs", "1", "report", "s"), "--jobs is for refine bench itself"),
        (("--address", "x", "report", "s"), "--address is for refine bench itself"),
        (("--logs", "x", "report", "s"), "--logs is for refine bench itself"),
        (("--out", "x", "report", "s"), "--out stands before report; put it behind"),
        (("--force", "report", "s"), "--force stands before report; put it behind"),
        (("report",), "Missing argument 'STORE...'"),
        (("--suite", "smoke", "selection", "d"), "--suite is for refine bench itself; leave it out, or the command"),
        (("--out", "x", "selection", "d"), "--out stands before selection; put it behind"),
        (("selection", "-o", "x.md"), "Missing argument 'DIR...'"),
        (("selection", "d"), "Missing option '--out' / '-o'"),
    ],
)
def test_usage(arguments: tuple[str, ...], said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*arguments)
    assert code == 2
    assert said in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "smoke", "--only", "cats"), "problem 'cats' is not in this suite; it has iris, digits"),
        (("--suite", "smoke", "--only", "iris", "--address", "x"), "--address is for --engine dask or ray"),
        (("report", "nothing.sqlite"), "nothing.sqlite is no file; name the store of a suite"),
        (("selection", "nowhere", "-o", "x.md"), "cannot read nowhere/meta.json: No such file or directory; name a"),
        (("selection", "a\nb", "-o", "x.md"), "cannot read a\\nb/meta.json: No such file or directory; name a folder"),
        (("--suite", "paper", "--logs", "nowhere"), "nowhere"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call(*arguments)
    assert code == 1
    assert output.startswith("Error: ")
    assert said in output
    assert len(output.splitlines()) == 1


def test_a_store_of_another_definition_is_not_reported(tmp_path) -> None:
    path = tmp_path / "s.sqlite"
    Store(path, {"suite": "smoke", "scale": "smoke", "definition": "old"}).close()
    code, output = call("report", str(path), "-o", str(tmp_path / "out"))
    assert code == 1
    assert "as another version of refine defines it" in output
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Makes stores whose results are made up: of a suite, at a scale."""
    monkeypatch.chdir(tmp_path)

    def gathered(store: Store) -> Results:
        found = results(store.meta["suite"], problems=2, seeds=2)
        return replace(found, meta={**found.meta, "scale": store.meta["scale"]})

    monkeypatch.setattr("refine.bench.gather.gather", gathered)

    def make(*pairs: tuple[str, str]) -> list[str]:
        names = [f"{i}.sqlite" for i, _ in enumerate(pairs)]
        for name, (suite, scale) in zip(names, pairs, strict=True):
            Store(name, {"suite": suite, "scale": scale}).close()
        return names

    return make


@pytest.mark.parametrize(
    ("suite", "scale", "folder"),
    [
        ("smoke", "smoke", "smoke"),
        ("smoke", "cpu", "smoke-cpu"),
        ("convex", "cpu", "convex"),
        ("deep", "gpu", "deep-gpu"),
    ],
)
def test_results_are_kept_by_suite_and_scale(stores, suite: str, scale: str, folder: str) -> None:
    code, output = call("report", *stores((suite, scale)), "-o", "out")
    assert code == 0, output
    assert {"report.md", "report.html", "results"} <= {path.name for path in Path("out").iterdir()}
    assert [path.name for path in Path("out/results").iterdir()] == [folder]
    assert load(f"out/results/{folder}").meta["scale"] == scale
    printed = [line.split()[1] for line in output.splitlines()]
    assert printed
    assert all(Path(name).parent == Path("out") and Path(name).is_file() for name in printed)
    assert call("report", f"out/results/{folder}", "-o", "again")[0] == 0
    assert Path("again/report.md").read_bytes() == Path("out/report.md").read_bytes()


def test_an_earlier_report_is_replaced_by_force_alone(stores) -> None:
    names = stores(("convex", "cpu"))
    Path("out/results/convex").mkdir(parents=True)
    Path("out/results/convex/runs.csv.gz").write_text("old")
    code, output = call("report", *names, "-o", "out")
    assert code == 1
    assert "runs.csv.gz exists; choose another place, or overwrite it (--force)" in output
    assert [str(path) for path in Path("out").rglob("*") if path.is_file()] == ["out/results/convex/runs.csv.gz"]
    code, _ = call("report", *names, "-o", "out", "--force")
    assert code == 0
    assert load("out/results/convex").meta["suite"] == "convex"


def test_what_refinement_was_worth_is_written_on_demand(stores) -> None:
    (name,) = stores(("convex", "cpu"))
    code, output = call("report", name, "-o", "out", "--worth", "some/worth.json")
    assert code == 0, output
    assert output.splitlines()[-1] == "wrote     some/worth.json"
    assert Path("some/worth.json").read_text() == worth_json(["out/results/convex"])
    code, output = call("report", name, "-o", "again", "--worth", "some/worth.json")
    assert (code, output) == (
        1,
        "Error: some/worth.json exists; choose another place, or overwrite it (--force)\n",
    )
    assert not Path("again").exists()
    assert call("report", name, "-o", "again", "--worth", "some/worth.json", "--force")[0] == 0


def test_a_file_of_the_report_is_not_overwritten_by_what_it_was_worth(stores) -> None:
    code, output = call("report", *stores(("convex", "cpu")), "-o", "out", "--worth", "out/../out/report.md")
    assert code == 1
    assert output == "Error: out/../out/report.md is a file of the report; name another for --worth\n"
    assert not Path("out").exists()


def test_two_stores_of_one_suite_are_refused(stores) -> None:
    code, output = call("report", *stores(("convex", "gpu"), ("deep", "cpu"), ("convex", "gpu")), "-o", "out")
    assert code == 1
    assert output == "Error: 0.sqlite and 2.sqlite both hold convex-gpu; report one of them at a time\n"
    assert not Path("out").exists()


@pytest.mark.parametrize("broken", ["nothing.sqlite", "empty"])
def test_a_report_that_fails_writes_nothing(stores, broken: str) -> None:
    Path("empty").mkdir()
    code, output = call("report", *stores(("convex", "cpu")), broken, "-o", "out")
    assert code == 1
    assert len(output.splitlines()) == 1
    assert broken in output
    assert not Path("out").exists()


def test_a_selection_is_written_once(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = {(name, "sgd"): default(pair(-1.0)) for name in "ab"}
    folders = [str(folder(tmp_path, cells, suite)) for suite in ("deep-choose", "convex-confirm")]
    page = Path("s.md")
    assert call("selection", *folders, "-o", "s.md") == (0, "wrote     s.md\n")
    written = page.read_text()
    assert written == selection(folders)
    assert written.startswith("# The recommended schedule, and what else was tried\n")
    code, output = call("selection", folders[0], "-o", "s.md")
    assert (code, output) == (1, "Error: s.md exists; choose another place, or overwrite it (--force)\n")
    assert page.read_text() == written
    code, output = call("selection", folders[0], "nowhere", "-o", "s.md", "--force")
    assert code == 1
    assert page.read_text() == written
    assert call("selection", folders[0], "-o", "s.md", "--force")[0] == 0
    assert page.read_text() == selection(folders[:1]) != written


def test_what_changes_is_written_by_its_own_command(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(folder(tmp_path, {("a, batch up", "sgd"): default(pair(-1.0))}, "changing-confirm"))
    assert call("changing", place, "-o", "c.md") == (0, "wrote     c.md\n")
    assert Path("c.md").read_text() == changing([place])
    code, output = call("peaks", place, "-o", "p.md")
    assert (code, output.count("\n")) == (1, 1)
    assert "holds the suite changing-confirm, which has no peaks" in output
    assert not Path("p.md").exists()


def test_every_suite_is_offered() -> None:
    assert set(OFFERED) == {*SUITES, "paper"}


def test_every_option_has_help() -> None:
    code, output = call("--help")
    assert code == 0
    for option in main.commands["bench"].params:
        assert getattr(option, "help", None), option.name
    assert "refine bench report" in output


def test_without_torch_the_report_works(tmp_path) -> None:
    """The committed results are reported where only the analyzer is installed."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'torch': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from refine.cli.main import main\n"
        f"main(['bench', 'report', {str(RESULTS / 'convex')!r}, '-o', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()


RESULTS = Path(__file__).parents[2] / "docs" / "bench" / "results"
