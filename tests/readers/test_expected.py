"""Every sample of /work/shared/formats reads to what expected.json says of it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from refine import RefineError, read_norms

SHARED = Path(os.environ.get("REFINE_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "formats"
EXPECTED = json.loads((SHARED / "expected.json").read_text()) if (SHARED / "expected.json").is_file() else {}
REFUSED = {
    "rendered/ambiguous.csv": ["actor/grad_norm", "critic/grad_norm", "--column"],
    "rendered/grad_norm_only.npy": ["--every"],
    "rendered/llamafactory_trainer_log.jsonl": ["no gradient norm in this format", "trainer_state.json beside it"],
    "rendered/wandb_ui_export_grad_norm_two_runs.csv": ["2 runs", "--run"],
    "rendered/wandb_ui_export_lr_two_runs.csv": ["gradient norm", "learning_rate"],
    "hf_trainer/v4.50.3_max_grad_norm_0_no_key_trainer_state.json": ["grad_norm is absent", "5.3"],
}
POST = {"rendered/composer_file_logger.txt"}
MEANS = {"rendered/fairseq_json.log"}


def truth() -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name in ("first", "resumed"):
        with open(SHARED / "rendered" / f"TRUTH_{name}.csv") as stream:
            found[name] = {
                int(row["step"]): {key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)
            }
    return found


@pytest.mark.parametrize("name", [name for name in EXPECTED if "refuse" in EXPECTED[name]])
def test_refused(name):
    with pytest.raises(RefineError) as error:
        read_norms(SHARED / name)
    assert all(words in str(error.value) for words in REFUSED[name])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in EXPECTED if "steps" in EXPECTED[name]])
def test_values(name):
    expected = EXPECTED[name]
    norms = read_norms(SHARED / name)
    assert norms.steps.tolist() == expected["steps"]
    assert norms.values.tolist() == expected["grad_norm"]
    assert norms.learning_rate.tolist() == expected["learning_rate"]


@pytest.mark.parametrize("name", [name for name in EXPECTED if "points" in EXPECTED[name]])
def test_against_truth(name):
    expected, rows = EXPECTED[name], truth()
    norms = read_norms(SHARED / name)
    assert (norms.steps.size, norms.steps[0], norms.steps[-1]) == (
        expected["points"],
        expected["first_step"],
        expected["last_step"],
    )
    known = dict(rows["first"])
    if "resumed" in expected:
        known = {step: row for step, row in known.items() if step <= 200} | rows["resumed"]
    column = "l2_post" if name in POST else "l2"
    if name in MEANS:
        window = [[known[s][column] for s in range(step - 9, step + 1)] for step in norms.steps.tolist()]
        wanted = [np.nanmean(values) for values in window]
    else:
        wanted = [known[step][column] for step in norms.steps.tolist()]
    np.testing.assert_allclose(norms.values, wanted, rtol=expected["rel_tol"])
    assert norms.source.window_mean == (name in MEANS)
    if name in POST:
        assert norms.source.clipping == "post"
    else:
        assert norms.source.clipping in ("pre", "unknown")
    if norms.learning_rate is not None:
        shift = int(norms.source.lr_alignment == "next_step")
        for step, rate in zip(norms.steps.tolist(), norms.learning_rate.tolist(), strict=True):
            used = {known[s]["lr"] for s in (step, step + shift) if s in known}
            assert any(rate == pytest.approx(lr, rel=4e-3, abs=1e-8) for lr in used), step
