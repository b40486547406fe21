"""What `refine.fit` takes: the same log as a file, a table, a series, an array, norms; and what it refuses."""

from dataclasses import fields
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from refine import GradientNorms, RefineError, fit, read_norms
from refine.inputs import as_norms
from refine.readers import ReadOptions

N = 60
STEPS = np.arange(1, N + 1)
NORMS = 2.0 - np.sin(STEPS / 20.0)
RATES = np.minimum(STEPS / 6, (N + 1 - STEPS) / (N - 5)) * 0.1
TABLE = pd.DataFrame({"step": STEPS, "grad_norm": NORMS, "lr": RATES})
REFUSED_INDEX = r'step column "index" holds ".*" in row 1 below the first line; steps are integers: choose another'


def of(log, **options):
    return as_norms(log, **options)[0]


def schedules(log, **options):
    return fit(log, **{"optimizer": "adam", **options}).schedules


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "log.csv"
    TABLE.to_csv(file, index=False)
    return file


def test_one_log_in_every_form(path):
    expected = schedules(path)
    forms = {
        "text": str(path),
        "list of one": [path],
        "table": TABLE,
        "index": TABLE.set_index("step"),
        "norms": read_norms(path),
        "objects": TABLE.astype(object),
        "texts": TABLE.astype(str),
        "nullable": TABLE.astype({"step": "Int64", "grad_norm": "Float64"}),
    }
    for name, form in forms.items():
        assert schedules(form) == expected, name
    bare = schedules(NORMS)
    forms = {
        "list": NORMS.tolist(),
        "tuple": tuple(NORMS),
        "series": pd.Series(NORMS),
        "series by steps": pd.Series(NORMS, index=STEPS),
        "column": TABLE["grad_norm"],
        "integers": pd.Series(NORMS, index=np.arange(N)),
        "norms": GradientNorms.from_values(NORMS),
        "norms alone": TABLE[["grad_norm"]].set_index(STEPS),
    }
    for name, form in forms.items():
        assert schedules(form) == bare, name


def test_several_paths_are_pooled(path):
    result = fit([path, str(path), path], optimizer="adam")
    assert (result.norms.pool, result.smoothing) == (None, 0.1)  # named three times, it counts once
    other = path.with_name("other.csv")
    TABLE.assign(grad_norm=1.1 * NORMS).to_csv(other, index=False)
    pooled = fit((path, other), optimizer="adam")
    assert (pooled.norms.pool.logs, pooled.norms.pool.smoothing, pooled.smoothing) == (2, 0.1, 0.0)


def test_every_tenth_row():
    for form in (NORMS, pd.Series(NORMS), TABLE[["grad_norm"]]):
        norms = of(form, every=10)
        assert norms.steps.tolist() == list(range(10, 10 * N + 1, 10))
    assert of(NORMS, logged_steps=100).total_steps == 100
    assert of(NORMS, norm_kind="l1").kind == "l1"
    assert of(pd.Series(NORMS, name="gnorm_l1")).kind == "l1"


def test_options_that_say_nothing_are_none_at_all():
    nothing = dict.fromkeys(("column", "step_column", "lr_column", "norm_kind", "every", "logged_steps", "run"))
    for form in (NORMS, TABLE, pd.Series(NORMS), GradientNorms.from_values(NORMS)):
        assert np.array_equal(of(form, **nothing).values, NORMS)
    assert nothing.keys() <= {field.name for field in fields(ReadOptions)}


class TestFrames:
    def test_rates_and_losses_come_along(self):
        norms = of(TABLE.assign(loss=NORMS**2, note="fine", found_inf=False))
        assert np.array_equal(norms.learning_rate, RATES)
        assert np.array_equal(norms.loss, NORMS**2)
        assert (norms.source.name, norms.source.format, norms.source.rows) == ("DataFrame", "DataFrame", N)

    def test_a_missing_cell_is_no_value_and_a_missing_step_no_row(self):
        table = TABLE.astype({"step": "Int64", "grad_norm": "Float64"})
        table.loc[3, "grad_norm"] = pd.NA
        table.loc[5, "step"] = pd.NA
        table.loc[7, "lr"] = np.nan
        norms = of(table)
        assert dict(norms.dropped) == {"without a norm": 1, "without a step": 1}
        assert norms.steps.tolist() == [s for s in STEPS if s not in (4, 6)]
        assert np.isnan(norms.learning_rate[norms.steps == 8]).all()
        assert np.array_equal(of(TABLE.assign(grad_norm=[None, *NORMS[1:]])).values, NORMS[1:])

    @pytest.mark.parametrize(
        "column",
        [
            pd.Categorical(NORMS),
            pd.arrays.SparseArray(NORMS),
            [Decimal(repr(v)) for v in NORMS.tolist()],
            pd.array(NORMS, dtype="Float64"),
            pd.array([repr(v) for v in NORMS.tolist()], dtype="string"),
        ],
        ids=["categories", "sparse", "decimals", "nullable", "texts"],
    )
    def test_numbers_of_every_type(self, column):
        assert np.array_equal(of(TABLE.assign(grad_norm=column)).values, NORMS)

    def test_numbers_of_arrow(self):
        pytest.importorskip("pyarrow")
        table = TABLE.convert_dtypes(dtype_backend="pyarrow")
        assert np.array_equal(of(table).values, NORMS)
        table.loc[2, "grad_norm"] = pd.NA
        assert dict(of(table).dropped) == {"without a norm": 1}

    @pytest.mark.parametrize(
        ("column", "shown"),
        [
            ([True] * N, "True"),
            (pd.array([True] * N, dtype="boolean"), "True"),
            (np.array([True] * N, dtype=object), "True"),
            (NORMS + 0j, r"\(1.95.*\)"),
            (pd.date_range("2024", periods=N), "2024-01-01 00:00:00"),
            (pd.date_range("2024", periods=N).astype(object), "2024-01-01 00:00:00"),
            (pd.to_timedelta(STEPS, unit="s"), "0 days 00:00:01"),
            (pd.period_range("2024", periods=N), "2024-01-01"),
            (["x", *NORMS[1:]], "x"),
            ([[1.0]] * N, r"\[1.0\]"),
        ],
        ids=["bool", "boolean", "objects", "complex", "dates", "date objects", "times", "periods", "word", "lists"],
    )
    def test_what_is_no_number_is_no_norm_and_no_step(self, column, shown):
        with pytest.raises(RefineError, match=f'column "grad_norm" holds "{shown}" in row 1 below'):
            of(TABLE.assign(grad_norm=column))
        with pytest.raises(RefineError, match=f'step column "step" holds "{shown}" in row 1 below'):
            of(TABLE.assign(step=column))

    def test_integers_beyond_the_floats(self):
        norms = of(TABLE.assign(grad_norm=[10**400, *[int(1 + v) for v in NORMS[1:]]]))
        assert dict(norms.dropped) == {"non-finite": 1}

    def test_rows_that_were_left_out_keep_the_steps_of_their_column(self):
        """Whatever the labels of the rows are then, and whatever a step is called."""
        for name in ("step", "global_step", "iteration"):
            table = TABLE.rename(columns={"step": name})
            for part in (table[table.lr > 0.05], table.dropna().iloc[::2], table.set_index(STEPS + 500)):
                norms = of(part)
                assert norms.steps.tolist() == part[name].tolist()
                assert norms.source.columns["step"] == name

    def test_without_one_the_labels_are_the_steps(self):
        part = TABLE[["grad_norm"]].set_index(10 * STEPS)[::2]
        assert of(part).steps.tolist() == list(range(10, 10 * N, 20))
        assert of(part).source.columns["step"] == "index"
        taken = part.assign(index="x")
        assert of(taken).source.columns["step"] == "index_"
        with pytest.raises(RefineError, match="no column is known to count optimizer steps"):
            of(TABLE[["grad_norm"]])

    def test_a_named_index_is_a_column(self):
        table = TABLE.set_index("step").rename_axis("iter")
        assert of(table, step_column="iter").steps.tolist() == STEPS.tolist()
        with pytest.raises(RefineError, match='no column is known to count optimizer steps; columns: .*, "epoch"'):
            of(table.rename_axis("epoch"))
        runs = pd.concat([TABLE, TABLE]).set_index(pd.Index(["a"] * N + ["b"] * N, name="run"))
        with pytest.raises(RefineError, match='the log holds 2 runs: "a", "b"; choose one with --run'):
            of(runs)
        assert of(runs, run="b").steps.size == N

    def test_runs(self):
        table = pd.concat([TABLE.assign(run="a"), TABLE.assign(run="b", grad_norm=2 * NORMS)], ignore_index=True)
        with pytest.raises(RefineError, match='the log holds 2 runs: "a", "b"; choose one with --run'):
            of(table)
        assert np.array_equal(of(table, run="b").values, 2 * NORMS)
        assert of(table, run="b").source.run == "b"
        with pytest.raises(RefineError, match='no run is called "c"'):
            of(table, run="c")
        # Of two columns that name runs the first counts, as in a file.
        assert np.array_equal(of(table.assign(run_id=7), run="a").values, NORMS)
        assert np.array_equal(of(TABLE.assign(run="a")).values, NORMS)

    def test_one_value_a_row(self):
        table = TABLE.melt(id_vars="step", var_name="metric")
        norms = of(table)
        assert np.array_equal(norms.values, NORMS)
        assert np.array_equal(norms.learning_rate, RATES)

    def test_two_columns_of_one_name(self):
        assert np.array_equal(of(pd.concat([TABLE, TABLE], axis=1)).values, NORMS)
        for name in ("step", "grad_norm", "lr"):
            with pytest.raises(RefineError, match=f'two columns are called "{name}" and differ; leave one'):
                of(pd.concat([TABLE, 2 * TABLE[[name]]], axis=1))
        with pytest.raises(RefineError, match='two columns are called "step" and differ; leave one'):
            of(TABLE.set_index(pd.Index(2 * STEPS, name="step")))
        twice = pd.concat([TABLE, pd.DataFrame({"x": NORMS}), pd.DataFrame({"x": STEPS})], axis=1)
        assert of(twice).steps.size == N  # what plays no role may be there twice

    def test_names_that_are_no_texts(self):
        table = pd.DataFrame(np.column_stack([STEPS, NORMS]))
        for names in ({"column": 1, "step_column": 0}, {"column": "1", "step_column": "0"}):
            assert np.array_equal(of(table, **names).values, NORMS)
        with pytest.raises(RefineError, match='no column is known to be a gradient norm; columns: "0", "1"'):
            of(table)
        assert of(TABLE.assign(**{"x": 1}).rename(columns={"x": (1, 2)})).steps.size == N
        assert of(TABLE.assign(**{"x": 1}).rename(columns={"x": None})).steps.size == N

    def test_levels(self):
        with pytest.raises(RefineError, match=r"the DataFrame has an index of 2 levels; make it one .*reset_index\(\)"):
            of(TABLE.set_index(["step", "lr"]))
        nested = TABLE.set_axis(pd.MultiIndex.from_product([["run"], TABLE.columns]), axis=1)
        with pytest.raises(RefineError, match="the DataFrame has columns of 2 levels; give them one name each"):
            of(nested)
        nested.columns = nested.columns.map("/".join)  # the remedy
        assert np.array_equal(of(nested).values, NORMS)

    def test_dates_as_labels(self):
        table = TABLE.set_index(pd.date_range("2024", periods=N))
        assert of(table).steps.tolist() == STEPS.tolist()
        with pytest.raises(RefineError, match=REFUSED_INDEX):
            of(table[["grad_norm"]])
        with pytest.raises(RefineError, match="no column is known to count optimizer steps"):
            of(table[["grad_norm"]].rename_axis("time"))

    @pytest.mark.parametrize(
        "table", [pd.DataFrame(), pd.DataFrame(columns=["step", "grad_norm"]), pd.DataFrame(index=range(5))]
    )
    def test_empty(self, table):
        with pytest.raises(RefineError, match="the DataFrame is empty; it must hold the norms of a run"):
            fit(table)

    def test_a_table_is_not_changed(self):
        before = TABLE.copy()
        for form in (TABLE, TABLE.set_index("step"), TABLE["grad_norm"]):
            fit(form, optimizer="adam")
        pd.testing.assert_frame_equal(TABLE, before)
        norms = of(TABLE)
        assert not np.shares_memory(norms.values, TABLE["grad_norm"].to_numpy())


class TestSeries:
    @pytest.mark.parametrize("name", [None, "grad_norm", "my norm", "step", "run", 3, ("a", "b")])
    def test_its_values_are_the_norms_whatever_it_is_called(self, name):
        for index, label in ((None, None), (10 * STEPS, "index"), (pd.Index(10 * STEPS, name="n"), "n")):
            norms = of(pd.Series(NORMS, index=index, name=name))
            assert np.array_equal(norms.values, NORMS)
            assert norms.total_steps == (N if index is None else 10 * N)
            assert norms.source.columns.get("step") == label
            assert norms.source.format == "Series"

    def test_its_name_and_that_of_its_index_may_be_one(self):
        assert of(pd.Series(NORMS, index=pd.Index(10 * STEPS, name="x"), name="x")).total_steps == 10 * N

    def test_missing_values(self):
        norms = of(pd.Series([np.nan, *NORMS[1:]]))
        assert dict(norms.dropped) == {"without a norm": 1}
        assert norms.steps.tolist() == STEPS[1:].tolist()

    def test_what_is_refused(self):
        for series, message in (
            (pd.Series([], dtype=float), "the Series is empty"),
            (pd.Series(["a"] * N), 'column "grad_norm" holds "a" in row 1'),
            (pd.Series([True] * N), 'column "grad_norm" holds "True" in row 1'),
            (pd.Series(NORMS, index=pd.date_range("2024", periods=N)), REFUSED_INDEX),
            (pd.Series(NORMS, index=[f"r{i}" for i in STEPS]), REFUSED_INDEX),
            (pd.Series(NORMS, index=pd.MultiIndex.from_product([range(6), range(10)])), "an index of 2 levels"),
            (pd.Series(NORMS, index=STEPS / 7), "a step is 0.14285714285714285; steps count optimizer updates"),
        ):
            with pytest.raises(RefineError, match=message):
                fit(series)
        with pytest.raises(RefineError, match='no column is called "b"'):
            of(pd.Series(NORMS, name="a"), column="b")


class TestRefused:
    @pytest.mark.parametrize(
        ("log", "message"),
        [
            ([], "the number of usable gradient norms is 0"),
            ([1.0], "the number of usable gradient norms is 1"),
            (None, r"norms have shape \(\)"),
            (3, r"norms have shape \(\)"),
            (np.ones((4, 2)), r"norms have shape \(4, 2\); .* give fit a table as a pandas DataFrame"),
            ([TABLE, TABLE], r"norms have shape \(2, 60, 3\)"),
            ({"grad_norm": NORMS}, "norms must be an array of numbers"),
            ({1.0, 2.0}, "norms must be an array of numbers"),
            ((x for x in NORMS), "norms must be an array of numbers"),
            (["log.csv", 1.0], "norms must be an array of numbers"),
            ([[1.0, 2.0], [3.0]], "norms must be an array of numbers"),
            (NORMS + 0j, "norms must be an array of numbers: their type is complex128"),
            (b"log.csv", "norms must be an array of numbers"),
            (["nowhere.csv", "other.csv"], "nowhere.csv does not exist; check the path"),
        ],
    )
    def test_what_is_no_log(self, log, message):
        with pytest.raises(RefineError, match=message):
            fit(log)

    def test_options_that_do_not_belong(self, path):
        for log, options, message in (
            (
                NORMS,
                {"column": "x"},
                "column is no parameter of fit for an array; leave it out, or use every, logged_steps, norm_kind",
            ),
            (TABLE, {"guard": False}, r"guard is no parameter of fit nor of read_norms; help\(refine.fit\) lists them"),
            (path, {"mode": "paper"}, "mode is no parameter of fit nor of read_norms"),
            (read_norms(path), {"every": 3}, "every says how to read a log, and these norms are read; leave it out"),
            (NORMS, {"norm_kind": "l3"}, "the norm kind is 'l3'; it must be one of l2, l1, dual"),
            (TABLE, {"every": 3, "step_column": "step"}, "--every and --step-column exclude each other"),
            (NORMS, {"smoothing": 2.0}, r"smoothing is 2.0; it must lie in \[0, 1\]"),
        ):
            with pytest.raises(RefineError, match=message):
                fit(log, **options)

    def test_a_tensor_with_a_gradient(self):
        torch = pytest.importorskip("torch")
        assert np.array_equal(of(torch.tensor(NORMS)).values, NORMS)
        with pytest.raises(RefineError, match="norms must be an array of numbers: Can't call numpy"):
            of(torch.tensor(NORMS, requires_grad=True))
