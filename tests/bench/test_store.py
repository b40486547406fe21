import multiprocessing
import sqlite3
import zlib

import numpy as np
import pytest

from refine import RefineError
from refine.bench.outcome import Log, Outcome
from refine.bench.store import Run, Store

IDENTITY = {"suite": "smoke", "scale": "cpu", "definition": "abc"}


def run(seed: int = 0, rate: float = 0.1, record: bool = False) -> Run:
    return Run("iris", "sgd", "linear:warmup_fraction=0", "", rate, seed, record)


def test_what_is_added_comes_back_as_it_was(tmp_path) -> None:
    log = Log(*np.random.default_rng(0).normal(size=(3, 7)))
    rows = {
        run(0, 2**0.5): Outcome(0.1 + 0.2, None, 1.5),
        run(1): Outcome(float("inf"), 3.0, 0.0),
        run(2, record=True): Outcome(1.0, 2.0, 0.1, log),
    }
    with Store(tmp_path / "new" / "s.sqlite", IDENTITY) as store:
        store.add(rows.items())
    with Store(tmp_path / "new" / "s.sqlite") as store:
        found = store.outcomes("iris", "sgd")
        assert store.meta.items() >= IDENTITY.items()
        assert store.outcomes("iris", "adam") == {}
        assert store.has("iris")
        assert not store.has("wine")
    assert found.keys() == rows.keys()
    for key, outcome in rows.items():
        assert (found[key].train_loss, found[key].test_loss) == (outcome.train_loss, outcome.test_loss)
    np.testing.assert_array_equal(found[run(2, record=True)].log.l1, log.l1)
    assert found[run(1)].log is None


def test_a_run_is_kept_once(tmp_path) -> None:
    with Store(tmp_path / "s.sqlite", IDENTITY) as store:
        store.add([(run(), Outcome(1.0, None, 0.0))])
        store.add([(run(), Outcome(2.0, None, 0.0)), (run(1), Outcome(3.0, None, 0.0))])
        found = store.outcomes("iris", "sgd")
    assert [found[run(0)].train_loss, found[run(1)].train_loss] == [1.0, 3.0]


def test_a_batch_that_fails_leaves_nothing(tmp_path) -> None:
    def half():
        yield run(), Outcome(1.0, None, 0.0)
        raise KeyboardInterrupt

    with Store(tmp_path / "s.sqlite", IDENTITY) as store:
        with pytest.raises(KeyboardInterrupt):
            store.add(half())
        assert store.outcomes("iris", "sgd") == {}


def _killed(path) -> None:
    import os
    import signal

    store = Store(path, IDENTITY)
    store.add([(run(), Outcome(1.0, None, 0.0))])
    store._database.execute("BEGIN")
    store._database.execute("UPDATE runs SET train_loss = 5")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_what_it_had_finished(tmp_path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path / "s.sqlite",))
    process.start()
    process.join()
    with Store(tmp_path / "s.sqlite", IDENTITY) as store:
        assert store.outcomes("iris", "sgd")[run()].train_loss == 1.0


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path, IDENTITY) as store:
        with pytest.raises(RefineError, match=r"s\.sqlite is written by another process"):
            Store(path, IDENTITY)
        store.add([(run(), Outcome(1.0, None, 0.0))])
        with Store(path) as reader:
            assert reader.outcomes("iris", "sgd").keys() == {run()}
    Store(path, IDENTITY).close()


def test_runs_of_another_kind_are_refused(tmp_path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path, IDENTITY) as store:
        store.add([(run(), Outcome(1.0, None, 0.0))])
    with pytest.raises(RefineError, match="holds runs with scale cpu and these have gpu; choose another --store"):
        Store(path, {**IDENTITY, "scale": "gpu"})
    with Store(path, IDENTITY) as store:
        assert store.meta.items() >= IDENTITY.items()


def test_a_store_without_runs_takes_another_identity(tmp_path) -> None:
    path = tmp_path / "s.sqlite"
    path.touch()
    with Store(path, IDENTITY) as store:
        store.note(skipped="{}")
    with Store(path, {**IDENTITY, "scale": "gpu"}) as store:
        assert store.meta == {**IDENTITY, "scale": "gpu", "format_version": "2"}


def test_problems_keep_their_definition_and_may_be_more(tmp_path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path, IDENTITY) as store:
        store.agree(**{"problem iris": "1", "problem wine": "1"})
        store.add([(run(), Outcome(1.0, None, 0.0))])
        with pytest.raises(
            RefineError, match=r"s\.sqlite holds runs of iris as another version of refine defines it; choose another"
        ):
            store.agree(**{"problem wine": "2", "problem iris": "2"})
        assert store.meta["problem wine"] == "1"
        store.agree(**{"problem wine": "2", "problem iris": "1", "problem glass": "1"})
    path.chmod(0o444)
    with Store(path) as reader:
        reader.agree(**{"problem iris": "1", "problem dna": "1"})
        assert {k: v for k, v in reader.meta.items() if k.startswith("problem ")} == {
            "problem iris": "1",
            "problem wine": "2",
            "problem glass": "1",
        }
        with pytest.raises(RefineError, match="holds runs of iris"):
            reader.agree(**{"problem iris": "2"})


@pytest.mark.parametrize("identity", [None, IDENTITY])
def test_a_file_that_is_no_store_is_refused_and_stays(tmp_path, identity) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look at")
    with pytest.raises(RefineError, match=r"notes\.txt cannot be used as a store"):
        Store(path, identity)
    assert path.read_text().startswith("not a database")


def test_a_database_of_something_else_is_refused(tmp_path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE cats (name TEXT)")
    other.close()
    with pytest.raises(RefineError, match=r"other\.db cannot be used as a store \(no such table: meta\)"):
        Store(path)
    before = path.read_bytes()
    with pytest.raises(RefineError, match=r"other\.db cannot be used as a store \(no such table: meta\)"):
        Store(path, IDENTITY)
    assert path.read_bytes() == before


DAMAGED = (
    r"s\.sqlite cannot be used as a store \(.+\); it must be an undamaged SQLite file that refine bench wrote: "
    "choose another --store, or restore a copy"
)


@pytest.fixture
def filled(tmp_path):
    path = tmp_path / "s.sqlite"
    log = Log(*np.random.default_rng(0).normal(size=(3, 400)))
    with Store(path, IDENTITY) as store:
        store.add((run(seed, record=True), Outcome(1.0, 2.0, 0.1, log)) for seed in range(4))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE logs SET norms = substr(norms, 1, 40)",
        "UPDATE logs SET norms = 'text'",
        "UPDATE runs SET train_loss = 'text'",
        "UPDATE runs SET seconds = x'00'",
    ],
)
def test_a_damaged_value_is_one_line(filled, damage) -> None:
    with sqlite3.connect(filled) as database:
        database.execute(damage)
    database.close()
    with Store(filled) as store, pytest.raises(RefineError, match=DAMAGED):
        store.outcomes("iris", "sgd")


def test_a_log_of_two_columns_is_one_line(filled) -> None:
    with sqlite3.connect(filled) as database:
        database.execute("UPDATE logs SET norms = ?", (zlib.compress(np.zeros((2, 400)).tobytes()),))
    database.close()
    with Store(filled) as store, pytest.raises(RefineError, match=DAMAGED):
        store.outcomes("iris", "sgd")


def test_damaged_pages_are_one_line(filled) -> None:
    content = filled.read_bytes()
    rng = np.random.default_rng(0)
    said = []
    for _ in range(60):
        damaged = bytearray(content)
        start = int(rng.integers(len(content) - 400))
        damaged[start : start + 400] = rng.bytes(400)
        filled.write_bytes(damaged)
        try:
            with Store(filled, IDENTITY) as store:
                store.has("iris")
                store.outcomes("iris", "sgd")
                store.note(finished="today")
                store.agree(**{"problem iris": "1"})
                store.add([(run(9), Outcome(1.0, None, 0.0))])
        except RefineError as error:
            said.append(str(error))
    assert len(said) > 20
    assert all(text.startswith(str(filled)) and "\n" not in text for text in said)


@pytest.mark.parametrize("table", ["meta", "runs"])
def test_a_lost_table_is_one_line(filled, table) -> None:
    with Store(filled, IDENTITY) as store:
        store._database.execute(f"DROP TABLE {table}")
        with pytest.raises(RefineError, match=f"no such table: {table}"):
            store.note(a="b") if table == "meta" else store.add([(run(), Outcome(1.0, None, 0.0))])
        with pytest.raises(RefineError, match=f"no such table: {table}"):
            store.agree(a="b") if table == "meta" else store.has("iris")


def test_a_loss_that_is_no_number_is_not_passed_over(tmp_path) -> None:
    with Store(tmp_path / "s.sqlite", IDENTITY) as store:
        with pytest.raises(RefineError, match=r"NOT NULL constraint failed: runs\.train_loss"):
            store.add([(run(), Outcome(float("nan"), None, 0.0))])
        assert not store.has("iris")


def test_a_missing_store_is_refused_and_not_made(tmp_path) -> None:
    with pytest.raises(RefineError, match="is no file; name the store of a suite"):
        Store(tmp_path / "s.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_the_key_tells_runs_apart() -> None:
    assert run().key == run().key
    assert len({run().key, run(1).key, run(rate=0.2).key, run(record=True).key}) == 4
