from __future__ import annotations

import pytest

from refine import RefineError, read_norms


def test_asks_for_steps(shared):
    with pytest.raises(RefineError, match="trainer_state.json .* --every K"):
        read_norms(shared / "formats/hf_trainer/v5.23.0_stdout.txt")


@pytest.mark.parametrize(("version", "alignment"), [("4.50.3", "unknown"), ("5.23.0", "this_step")])
def test_samples(shared, version, alignment):
    folder = shared / "formats/hf_trainer"
    which = {"4.50.3": "lr_is_next_step", "5.23.0": "lr_is_this_step"}[version]
    norms = read_norms(folder / f"v{version}_stdout.txt", every=1)
    state = read_norms(folder / f"v{version}_{which}_trainer_state.json")
    n = norms.steps.size
    assert norms.steps.tolist() == state.steps[:n].tolist()
    assert norms.values == pytest.approx(state.values[:n], rel=1e-3)
    assert norms.learning_rate == pytest.approx(state.learning_rate[:n], rel=1e-3)
    assert (norms.kind, norms.source.clipping, norms.source.lr_alignment) == ("l2", "pre", alignment)


def test_between_progress_bars_and_evaluations(make_log):
    text = (
        "  0%|          | 0/4 [00:00<?, ?it/s]\r 25%|##  | 1/4 [00:01<00:03]\r"
        "{'loss': 3.9, 'grad_norm': 0.5, 'learning_rate': 1e-4, 'epoch': 0.25}\n"
        "{'eval_loss': 9.0, 'eval_runtime': 1.0, 'epoch': 0.25}\n"
        "{'loss': 3.8, 'grad_norm': nan, 'learning_rate': 2e-4, 'epoch': 0.5}\n"
        "{'loss': 3.7, 'grad_norm': 0.25, 'learning_rate': 3e-4, 'epoch': 0.75}\n"
        "INFO {'loss': '3.7', 'grad_norm': '0.125', 'learning_rate': '4e-04', 'epoch': '1'}\n"
        "{'train_runtime': 1.0, 'train_loss': 3.8, 'epoch': 1.0}\n"
        "{'loss': 3.7, 'grad_norm': 0.2"
    )
    norms = read_norms(make_log(text, name="out.txt"), every=10)
    assert (norms.steps.tolist(), norms.values.tolist()) == ([10, 30, 40], [0.5, 0.25, 0.125])
    assert norms.learning_rate.tolist() == [1e-4, 3e-4, 4e-4]
    assert norms.dropped["non-finite"] == 1


def test_printer_of_transformers(make_log, capsys):
    transformers = pytest.importorskip("transformers")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState
    state, control = TrainerState(), TrainerControl()
    state.is_local_process_zero = True
    for step in range(1, 9):
        logs = {"loss": 3.5, "grad_norm": step / 8, "learning_rate": step / 1e4, "epoch": step / 8}
        PrinterCallback().on_log(None, state, control, logs=logs)
    norms = read_norms(make_log(capsys.readouterr().out, name="out.txt"), every=5)
    assert transformers.__version__
    assert norms.steps.tolist() == list(range(5, 41, 5))
    assert norms.values == pytest.approx([step / 8 for step in range(1, 9)], rel=1e-3)
