"""The paper's figure beside refine: logs made from a curve give it back, and the page in the docs is what comes out."""

from dataclasses import replace

import numpy as np
import pytest

from refine import RefineError
from refine.bench.parity import PUBLISHED, parity, parity_markdown, parity_table
from refine.bench.reporting import document as doc
from refine.families import polynomial

T = 4000


def write_log(path, norms, every=1, column="grad_norm"):
    rows = "".join(f"{every * t},{norm!r}\n" for t, norm in enumerate(norms.tolist(), 1))
    path.write_text(f"step,{column}\n{rows}")


def norms_of(published):
    """Norms whose refined schedule is the curve: 2 h = -(W^2)' with W = integral of w from x to 1, and w = h / W."""
    h = polynomial(T, warmup_steps=round(published.warmup * T), power=published.exponent).multiplier
    squared = np.sqrt(np.cumsum(h[::-1])[::-1]) / h
    return np.sqrt(squared) if published.optimizer == "sgd" else squared


@pytest.mark.parametrize("published", [p for p in PUBLISHED if p.log], ids=lambda p: p.name)
def test_norms_of_the_figures_curve_give_it_back(published, tmp_path):
    write_log(tmp_path / published.log, norms_of(published))
    (row,) = (row for row in parity(tmp_path) if row.published == published)
    paper, window, refined = row.readings
    assert [r.mode for r in row.readings] == ["published", "published script", "refined"]
    assert replace(window, mode="published") == paper  # up to 10,000 points the script's window is a tenth of them too
    assert paper.warmup == pytest.approx(published.warmup, abs=0.001)
    expected = 2.82 if published.exponent == 3.0 else published.exponent  # as the page says
    assert paper.exponent == pytest.approx(expected, abs=0.02)
    assert paper.curve_r2 > 0.995
    assert refined.warmup == pytest.approx(max(published.warmup, 0.02), abs=0.001)
    assert refined.exponent == pytest.approx(2.93 if published.exponent == 3.0 else paper.exponent, abs=0.01)


def test_constant_norms_are_linear_decay(tmp_path):
    write_log(tmp_path / "gpt.csv", np.full(T, 3.0))
    rows = parity(tmp_path)
    assert [row.published for row in rows] == list(PUBLISHED)
    assert [row.log for row in rows if not row.readings] == [
        "no dlrm.csv here.",
        "no roberta_l1.csv here.",
        "no log here.",
        "no imagenet_gnorm.csv here.",
        "no log here.",
    ]
    sgd, adam = (row.readings for row in rows if row.readings)
    assert sgd == adam
    for reading in sgd[:2]:
        assert (reading.warmup, reading.first) == (0.0, 1.0)
        assert reading.exponent == pytest.approx(1.0, abs=1e-4)
        assert reading.log_fit == pytest.approx((1.0, 1.0), rel=1e-9)
    h, curve = 1.0 - np.arange(T) / T, polynomial(T, warmup_steps=1120, power=1.0).multiplier
    assert sgd[0].curve_r2 == pytest.approx(1.0 - np.sum((h - curve) ** 2) / np.sum((h - h.mean()) ** 2), rel=1e-9)
    assert sgd[2].mode == "refined"
    assert sgd[2].warmup == (0.02 * T - 1) / T


def test_the_script_smooths_long_logs_over_fewer_points(tmp_path):
    """Small norms at 700 of 20,000 points: more than half a window of 1,001, less than half of one of 2,001."""
    t = np.arange(20_000)
    write_log(tmp_path / "gpt.csv", np.where((t >= 5000) & (t < 5700), 1.0, 3.0))
    paper, window, _ = parity(tmp_path)[1].readings
    assert (paper.warmup, window.warmup) == (0.0, 0.25)


def test_what_is_said_of_a_log(tmp_path):
    write_log(tmp_path / "dlrm.csv", np.full(40, 2.0), every=10)
    write_log(tmp_path / "roberta_l1.csv", np.full(40, 2.0), column="grad_norm_l1")
    rows = parity(tmp_path)
    assert rows[0].log.startswith(
        "dlrm.csv, 40 points, every 10 updates, l2 (its column does not say). Not reproduced."
    )
    assert rows[3].log.startswith("roberta_l1.csv, 40 points, every update, l1. The figure's own log")


def test_a_folder_without_the_logs(tmp_path):
    names = "dlrm.csv, gpt.csv, roberta_l1.csv, imagenet_gnorm.csv"
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "a\nb" / "mri.csv").write_text("step,grad_norm\n1,1\n2,1\n")
    for folder in (tmp_path / "nowhere", tmp_path / "a\nb"):
        with pytest.raises(RefineError) as error:
            parity(folder)
        shown = str(folder).replace("\n", "\\n")
        assert str(error.value) == f"{shown} holds none of {names}; give the folder of the paper's logs"


def test_a_log_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "gpt.csv").write_text("step,grad_norm\n1,2\n")
    with pytest.raises(RefineError, match=r"gpt\.csv: the number of usable gradient norms is 1"):
        parity(tmp_path)


def test_the_table_for_a_terminal(tmp_path):
    write_log(tmp_path / "gpt.csv", np.full(400, 2.0))
    text = parity_table(parity(tmp_path))
    assert "curve                      schedule  warmup  difference  exponent  difference" in text
    assert "MRI, N = G                   figure   0.400                  0.90\n" in text
    (line,) = (line for line in text.splitlines() if line.startswith("GPT, N = G   ") and " published  " in line)
    assert line.split()[5:9] == ["0.000", "-0.280", "1.00", "+0.00"]
    assert "- RCNN, N = G^2: no log here." in text
    assert max(map(len, text.splitlines())) < 140
    assert text.isascii()


def test_the_page_escapes(tmp_path):
    write_log(tmp_path / "roberta_l1.csv", np.full(400, 2.0))
    page = parity_markdown(parity(tmp_path))
    assert page.startswith("# The paper's schedules, recomputed\n")
    assert "roberta\\_l1.csv, 400 points" in page
    header = next(line for line in page.splitlines() if line.startswith("| curve |"))
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in lines} == {header.count("|")} == {11}
    assert len(lines) == 2 + len(PUBLISHED) + 3
    assert doc.to_markdown([doc.Paragraph("a|b")]) == "a\\|b\n"


class TestTheLogs:
    def test_the_page_in_the_docs_is_what_comes_out(self, shared, root):
        assert (root / "docs" / "bench" / "parity.md").read_text() == parity_markdown(parity(shared / "logs"))

    def test_what_is_reproduced(self, shared):
        found = {row.published.name: row.readings[0] for row in parity(shared / "logs") if row.readings}
        warmups = {name: round(reading.warmup, 2) for name, reading in found.items()}
        assert warmups == {
            "DLRM, N = G": 0.05,
            "GPT, N = G^2": 0.28,
            "GPT, N = G": 0.23,
            "RoBERTa, N = G": 0.45,
            "ImageNet, N = G^2": 0.01,
        }
        assert found["RoBERTa, N = G"].exponent == pytest.approx(0.8, abs=0.1)
        assert found["ImageNet, N = G^2"].exponent == pytest.approx(3.0, abs=0.3)
        assert found["GPT, N = G"].exponent == pytest.approx(1.0, abs=0.05)
