"""Sections of the report, each against a closed form or a made-up suite that does what the section is about."""

import re
from dataclasses import replace

import numpy as np

from refine.bench.reporting import document as doc
from refine.bench.reporting.prediction import evidence
from refine.bench.reporting.report import build
from refine.bench.reporting.statistics import NULL, cells, paired

from .synthetic import results

UNGUARDED, SWEPT = "unguarded(linear)", "convex, SGD: % over linear decay"


def table(blocks, start):
    return next(block for block in blocks if isinstance(block, doc.Table) and block.caption.startswith(start))


def row(found, name):
    return next(
        [c.text if isinstance(c, doc.Cell) else c for c in each]
        for each in found.rows
        if name in (each[0], getattr(each[0], "text", None))
    )


def texts(blocks):
    return [block.text for block in blocks if isinstance(block, doc.Paragraph)]


def sentence(blocks, start):
    return next((text for text in blocks[1].texts if text.startswith(start)), "")


def with_excess(of, excess, noise=0.0, seeds=6):
    """The unguarded arm is `excess(rho)` % over linear, and so much noise."""
    rho = of.logs[of.logs["method"] == "linear"].groupby(["problem", "optimizer"])["rho"].median()
    rng = np.random.default_rng(3)
    runs = of.runs[of.runs["method"].isin(["linear", UNGUARDED])].copy()
    base = runs[(runs[["method", "warmup", "rates"]] == ["linear", "tuned", "swept"]).all(axis=1)]
    base = base.set_index(["problem", "optimizer", "seed"])["loss"]
    own = runs["method"] == UNGUARDED
    runs.loc[own, "loss"] = [
        base[p, o, s] * (1 + 0.01 * (excess(rho[p, o]) + noise * rng.normal()))
        for p, o, s in runs.loc[own, ["problem", "optimizer", "seed"]].itertuples(index=False)
    ]
    return replace(of, runs=runs)


class TestMeans:
    def test_near_separable_cells_are_in_no_mean(self, of, blocks):
        frame = evidence(cells(paired(of.runs)), of.logs, UNGUARDED)
        own = frame[frame["family"] == "sgd"]
        kept = own[own["rho"] >= 0.3]
        assert 0 < len(kept) < len(own)
        found = table(blocks, SWEPT)
        assert found.header[1:5] == ("swept: W / T / L", "swept: median", "swept: worst", "swept: mean, rho \u2265 0.3")
        expected = [f"{v:+.2f}" for v in (own["excess"].median(), kept["excess"].mean())]
        shown = row(found, UNGUARDED)
        assert [shown[2], shown[4]] == expected
        assert any(text.startswith(f"The means are over {len(kept)} of 8 cells.") for text in texts(blocks))

    def test_cells_without_a_log_count(self, of):
        sgd = of.logs[of.logs["optimizer"] != "sgd"]
        found = build([replace(of, logs=sgd)])
        assert any(text.startswith("The means are over 8 of 8 cells.") for text in texts(found))

    def test_logs_of_other_methods_do_not_count(self, of, blocks):
        logs = of.logs.assign(rho=of.logs["rho"].where(of.logs["method"] == "linear", 0.01))
        assert build([replace(of, logs=logs)])[1] == blocks[1]
        assert table(build([replace(of, logs=logs)]), SWEPT) == table(blocks, SWEPT)

    def test_no_cell_is_left(self, of):
        found = build([replace(of, logs=of.logs.assign(rho=0.1))])
        assert row(table(found, SWEPT), "linear")[1:5] == ["baseline", "0", "0", ""]
        assert row(table(found, SWEPT), UNGUARDED)[4] == ""


class TestControl:
    def test_it_is_compared_and_explained(self, of, blocks):
        wins = row(table(blocks, SWEPT), NULL)[1]
        assert re.fullmatch(r"\d+ / \d+ / \d+", wins)
        assert NULL in table(blocks, "convex, SGD, swept rates: ").header
        notes = [
            text for text in texts(blocks) if "linear, again (null: linear decay tuned again on other seeds)" in text
        ]
        assert len(notes) == 2
        assert f"linear decay tuned again on other seeds: {wins})" in sentence(blocks, "default(linear)")
        assert "again on other seeds" not in sentence(blocks, "refined(linear)")

    def test_it_is_neither_ranked_nor_chosen(self, of, blocks):
        for block in blocks:
            if isinstance(block, doc.Table) and "critical difference" in block.caption:
                assert NULL not in [each[0] for each in block.rows]
        assert not any("Not ranked" in text and NULL in text for text in texts(blocks))
        runs = of.runs.copy()
        runs.loc[runs["method"] == NULL, "loss"] *= 0.5
        better = build([replace(of, runs=runs)])
        for caption in ("Gain over linear decay", "convex, SGD: 8 cells, critical"):
            assert table(better, caption) == table(blocks, caption)
        assert row(table(better, SWEPT), NULL)[1] == "8 / 0 / 0"

    def test_without_it_nothing_is_said(self, of):
        found = build([replace(of, runs=of.runs[of.runs["method"] != NULL])])
        assert "again on other seeds" not in doc.to_markdown(found)


class TestRule:
    NO, YES = "No threshold of rho, chosen on the other problems, did", "Refined beyond a threshold of rho"

    def test_always_linear_wins(self, of):
        found = build([with_excess(of, lambda rho: 3.0 / rho)])
        expected = (
            f"{self.NO} better than linear decay everywhere: convex SGD (mean 0.00 ± 0.00\u00a0%, worst 0.00\u00a0%;"
        )
        assert sentence(found, self.NO).startswith(expected)
        assert sentence(found, self.YES) == ""

    def test_the_rule_gains(self):
        """Five of the SGD cells and six of the Adam ones are at -2 %."""
        of = results(problems=8, seeds=6, seed=4)
        found = build([with_excess(of, lambda rho: 9.0 if rho < 0.3 else -2.0)])
        assert "convex SGD (mean -1.25 ± " in sentence(found, self.YES)
        assert "convex Adam family (mean -1.50 ± " in sentence(found, self.YES)
        assert sentence(found, self.NO) == ""
        told = sentence(found, f"Whether {UNGUARDED} loses more than 0.5\u00a0% to linear decay")
        assert "convex SGD told right 8 of 8 (balanced 100\u00a0%; always the same: 50\u00a0%)" in told
        rho = row(checks := table(found, f"convex, SGD: {UNGUARDED}"), "rho")
        at = checks.header.index("told right")
        assert rho[at : at + 2] == ["8 of 8", "100 %"]
        assert row(checks, "points")[at + 1] == "50 %"
        right = [int(row(checks, name)[at].split()[0]) for name in ("always refined", "always linear")]
        assert sum(right) == 8
        assert row(checks, "always linear")[at + 1] == "50 %"

    def test_a_gain_within_the_noise_is_none(self, of):
        """A mean below zero that one problem makes."""
        low = of.logs[of.logs["method"] == "linear"].groupby(["problem", "optimizer"])["rho"].median().min()
        found = build([with_excess(of, lambda rho: -9.0 if rho == low else 0.01)])
        assert sentence(found, self.YES) == ""

    def test_choosing_on_noise_gains_nothing(self):
        """The smaller of two equal arms, chosen and measured on the same seeds, would gain 0.28 % in the mean."""
        noise = with_excess(results(problems=40, seeds=6), lambda rho: 0.0, noise=1.7)
        found = table(build([noise]), f"convex, all optimizers: {UNGUARDED}")
        shown = row(found, "the better of both, chosen on half of the seeds")
        assert shown[1] == "80"
        assert abs(float(shown[5])) < 0.1

    def test_the_better_is_chosen_where_there_is_one(self, of):
        found = table(build([with_excess(of, lambda rho: 9.0 if rho < 0.3 else -2.0)]), f"convex, SGD: {UNGUARDED}")
        shown = row(found, "the better of both, chosen on half of the seeds")
        always = row(found, "always refined")
        assert float(shown[5]) < min(float(always[5]), 0.0)
        assert shown[6] == "0.00"


class TestEnds:
    def test_sweeps_at_their_limit(self, of, blocks):
        items = next(b for b in blocks if isinstance(b, doc.Items) and any("set 00" in text for text in b.texts))
        where = "set 00, sgd; set 00, adam; set 01, sgd; set 01, adam"
        assert items.texts == (f"convex, constant, fixed warmup: {where}", f"convex, constant: {where}")
        none = build([replace(of, costs=of.costs.assign(at_limit=0))])
        assert "furthest rate" not in doc.to_markdown(none)
        assert "furthest rate" in doc.to_markdown(blocks)

    def test_methods_that_could_not_be_tried(self, of, blocks):
        found = table(blocks, "Methods that could not be tried")
        assert found.rows == (("convex", "mechanic", "a norm is <inf>", "2"),)
        nothing = build([replace(of, meta={**of.meta, "failed": {}, "skipped": {}})])
        at = nothing.index(doc.Heading(2, "Left out"))
        assert nothing[at + 1] == doc.Paragraph("None.")

    def test_what_a_rule_saves(self, blocks):
        assert any("the rule of a family needs the sweep of linear decay" in text for text in texts(blocks))
