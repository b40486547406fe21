import json

import numpy as np
import pandas as pd
import pytest

from refine import explain, fit, fit_loss, linear
from refine.explanation_figure import draw
from refine.foretold import foretell, law_of, why_not
from refine.norms import GradientNorms

LOG = "data/shakespeare_adamw.csv"


@pytest.fixture(scope="module")
def root_log(request):
    return request.config.rootpath / LOG


@pytest.fixture(scope="module")
def result(root_log):
    return fit(root_log)


@pytest.fixture
def without_losses(tmp_path, root_log):
    table = pd.read_csv(root_log, comment="#").drop(columns="loss")
    path = tmp_path / "no_losses.csv"
    table.to_csv(path, index=False)
    return path


def test_a_result_predicts_its_schedules_at_their_suggested_peaks(result, root_log):
    law = fit_loss(root_log)
    assert result.predicted.keys() == {"refined", "recommended", "linear", "cosine"}
    for name, found in result.predicted.items():
        right = law.predict(result.schedules[name], peak_lr=result.peak_lr(name))
        assert found.final_loss == pytest.approx(right.final_loss, rel=1e-3)
    told = result.to_dict()["predicted_loss"]
    assert told["linear"]["low"] < told["linear"]["final_loss"] < told["linear"]["high"]
    assert "predicted: refined 1." in " ".join(result.summary().split())


def test_without_losses_nothing_is_predicted_and_nothing_else_changes(result, without_losses):
    alone = fit(without_losses, optimizer="adam")
    assert alone.predicted == {}
    assert alone.to_dict()["predicted_loss"] is None
    assert "loss  " not in alone.summary()
    assert "not predicted: " in " ".join(alone.summary(verbose=True).split())
    assert alone.refined == result.refined


def test_where_one_schedule_lies_too_far_off_nothing_is_predicted(result):
    near, far = linear(2_000), linear(20)
    assert foretell(result.norms, {"near": (near, None)}).keys() == {"near"}
    assert foretell(result.norms, {"near": (near, None), "far": (far, None)}) == {}
    assert foretell(result.norms, {"far": (near, 1e3)}) == {}


def test_why_there_is_no_law():
    norms = GradientNorms.from_values(np.ones(400), learning_rate=np.full(400, 0.1), loss=np.linspace(3.0, 2.0, 400))
    assert law_of(norms) is None
    assert why_not(norms).startswith("array: the rate never drops")
    assert foretell(norms, {}) == {}


def test_compare_shows_the_loss_beside_the_bound(run, root_log, without_losses):
    done = run("compare", root_log, "cosine", "wsd:0.4")
    assert done.stdout.splitlines()[0].split()[-1] == "loss"
    assert "loss      predicted at the logged peak" in done.stdout
    rows = {row["name"]: row for row in json.loads(run("compare", root_log, "cosine", "wsd:0.4", "--json").stdout)}
    law = fit_loss(root_log)
    assert rows["wsd:0.4"]["predicted_loss"] == pytest.approx(law.predict("wsd:0.4").final_loss, rel=1e-3)
    assert rows["wsd:0.4"]["predicted_low"] < rows["wsd:0.4"]["predicted_loss"] < rows["wsd:0.4"]["predicted_high"]
    plain = run("compare", without_losses, "cosine", "--optimizer", "adam")
    assert plain.stdout.splitlines()[0].split()[-1] == "last"
    assert {row["predicted_loss"] for row in json.loads(run("compare", without_losses, "cosine", "--json").stdout)} == {
        None
    }


def test_continue_predicts_the_rest_from_where_the_run_is(run, root_log, tmp_path):
    known = ["--at", 1_000, "--total-steps", 3_000, "--no-plot", "--force"]
    assert "loss      predicted after the last update: 1." in run("continue", root_log, *known).stdout
    told = json.loads(run("continue", root_log, *known, "--json").stdout)["predicted_loss"]
    assert told.keys() == {"this tail", "straight line"}
    assert told["this tail"]["total_steps"] == 3_000
    law = fit_loss(root_log)
    free, held = (law.predict("linear", anchored=anchored).final_loss for anchored in (False, True))
    last = law.to_frame().iloc[-4:]
    assert held / free == pytest.approx(np.exp(np.mean(np.log(last.loss / last.fitted))))


def test_retarget_predicts_with_a_log(run, root_log):
    run("fit", root_log, "--no-plot")
    done = run("retarget", "refined", "--total-steps", 5_000, "--log", root_log, "--no-plot")
    assert "loss      predicted as it was, 2,000 updates: 1.6" in done.stdout
    assert "loss      predicted retargeted, 5,000 updates: 1.4" in done.stdout
    told = json.loads(run("retarget", "refined", "--total-steps", 5_000, "--log", root_log, "--json", "--force").stdout)
    assert told["predicted_loss"]["retargeted"]["total_steps"] == 5_000
    assert "predicted" not in run("retarget", "refined", "--total-steps", 5_000, "--no-plot", "--force").stdout


def test_explain_says_and_draws_it(root_log, without_losses):
    found = explain(root_log)
    assert dict(found.steps)["loss"].startswith("L = ")
    titles = [ax.get_title(loc="left") for ax in draw(found).axes]
    assert any("Loss: logged, by the law" in " ".join(title.split()) for title in titles)
    plain = explain(without_losses, optimizer="adam")
    assert "loss" not in dict(plain.steps)
    assert not any("by the law" in ax.get_title(loc="left") for ax in draw(plain).axes)
