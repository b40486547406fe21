import doctest
import os
import pkgutil
import re
import subprocess
import sys
import types
from importlib import import_module, metadata
from pathlib import Path

import pytest

import refine
from refine import RefineError, read_norms

MODULES = sorted(m.name for m in pkgutil.walk_packages(refine.__path__, "refine.") if m.name != "refine.cli.__main__")
HEAVY = ("numpy", "scipy", "pandas", "matplotlib", "torch")


def python(script, cwd):
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["refine", *MODULES])
def test_docstring_examples(name):
    module = import_module(name)
    assert module.__doc__
    failures, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failures == 0


def test_import_and_help_cost_nothing(tmp_path):
    loaded = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert python("import refine; " + loaded, tmp_path) == "[]\n"
    script = (
        "from click.testing import CliRunner; from refine.cli.main import main;"
        "calls = (['--help'], ['fit', '--help'], ['plot', '--help']);"
        "[CliRunner().invoke(main, a, catch_exceptions=False) for a in calls];"
    )
    assert python(script + loaded, tmp_path) == "[]\n"


def test_the_library_works_without_torch(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None; import refine;"
        "r = refine.fit([1.0] * 30); refine.emit(r, 'out'); print(r.refined.total_steps)"
    )
    assert python(script, tmp_path) == "30\n"


def test_the_suite_tests_what_is_installed(root, tmp_path):
    """Also by ``python -m pytest`` in a checkout, whose refine/ lacks the command line."""
    for folder in ("refine", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "refine" / "__init__.py").touch()
    (tmp_path / "tests" / "conftest.py").write_text((root / "tests" / "conftest.py").read_text())
    (tmp_path / "tests" / "test_it.py").write_text(
        f"import refine\ndef test_it(run):\n    assert refine.__file__ == {refine.__file__!r}\n"
        "    assert run('--version').exit_code == 0\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_top_level_cli_is_installed(tmp_path):
    script = "from importlib.util import find_spec; print(find_spec('cli'), bool(find_spec('refine.cli')))"
    assert python(script, tmp_path) == "None True\n"


def test_public_names_are_all_there():
    assert set(dir(refine)) == set(refine.__all__)
    for name in refine.__all__:
        assert getattr(refine, name) is not None
    with pytest.raises(AttributeError, match="module 'refine' has no attribute 'nope'"):
        _ = refine.nope


def test_no_text_asks_for_a_release(root):
    texts = [root / "README.md", *(p for d in ("refine", "cli", "docs", "examples") for p in (root / d).rglob("*.*"))]
    assert [p for p in texts if p.suffix in (".py", ".md") and "lr-refine[" in p.read_text("utf-8")] == []


def test_the_version_is_written_once_and_in_the_changelog(root):
    assert metadata.version("lr-refine") == refine.__version__
    assert f"## {refine.__version__}" in (root / "CHANGELOG.md").read_text()


def test_torch_is_pinned_for_tests_only():
    wanted = [r for r in metadata.requires("lr-refine") if r.startswith("torch")]
    assert sorted(wanted) == ['torch==2.13.0; extra == "test"', 'torch>=2.4; extra == "torch"']


def test_the_package_is_typed():
    assert (Path(refine.__file__).parent / "py.typed").is_file()


def test_readme_is_short_and_its_transcript_is_real(root, tmp_path):
    text = (root / "README.md").read_text()
    assert text.count("\n") <= 150
    (transcript,) = re.findall(r"```console\n\$ refine (fit data/\S+)\n(.*?)```", text, re.DOTALL)
    (tmp_path / "data").symlink_to(root / "data")
    done = subprocess.run(
        [sys.executable, "-m", "refine.cli", *transcript[0].split()],
        cwd=tmp_path,
        env=dict(os.environ),  # without the COLUMNS that readline, which pytest imports, sets for children alone
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == transcript[1]


def test_readme_python_runs(root, tmp_path):
    (script,) = re.findall(r"```python\n(import refine.*?)```", (root / "README.md").read_text(), re.DOTALL)
    (tmp_path / "data").symlink_to(root / "data")
    subprocess.run([sys.executable, "-m", "refine.cli", "fit", "data/fashion_mnist_sgd.csv"], cwd=tmp_path, check=True)
    python(script, tmp_path)
    assert (tmp_path / "refined" / "refined_schedule.py").is_file()


def test_the_reader_in_contributing_works(root, make_log, monkeypatch):
    """A format is one file and one registry line."""
    from refine import readers

    (text,) = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL)
    acme = types.ModuleType("refine.readers.acme")
    acme.__package__ = "refine.readers"
    exec(text, acme.__dict__)
    lines = "".join(f"acme> upd={t} |g|={0.5 + t / 100} eta={1e-3 * t} mem=3GB\n" for t in range(1, 30))
    log = make_log(f"hello\n{lines}", name="out.txt")
    with pytest.raises(RefineError):
        read_norms(log)
    monkeypatch.setattr(readers, "FORMATS", (acme.FORMAT, *readers.FORMATS))
    norms = read_norms(log)
    assert norms.values.tolist() == [0.5 + t / 100 for t in range(1, 30)]
    assert norms.learning_rate.tolist() == [1e-3 * t for t in range(1, 30)]
    assert (norms.source.format, norms.source.clipping, norms.kind) == ("Acme console log", "pre", "l2")


def test_every_reader_has_a_test_and_a_row_in_the_readme_or_formats(root):
    from refine.readers import FORMATS

    modules = {format.read.__module__.rsplit(".", 1)[-1] for format in FORMATS}
    tested = {path.stem.removeprefix("test_") for path in (root / "tests" / "readers").glob("test_*.py")}
    assert modules - tested <= {"table", "json_text"}
    assert len({format.name for format in FORMATS}) == len(FORMATS)
