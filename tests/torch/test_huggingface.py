import copy
import json
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from refine import RefineError, RefineWarning, linear, read_norms
from refine.torch import ScheduleLR

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from refine.torch.huggingface import record

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),
]
UPDATES, RATE = 8, 0.2


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))

    def forward(self, x, labels=None):
        found = self.layers(x)
        return {"loss": (found - labels).square().mean(), "logits": found}


class Rows(torch.utils.data.IterableDataset):
    """The same rows in the same order."""

    def __iter__(self):
        numbers = torch.Generator().manual_seed(2)
        for _ in range(8 * UPDATES * 4):
            x = torch.randn(6, generator=numbers)
            yield {"x": x, "labels": x.flip(0)}


class Stop(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 6:
            raise InterruptedError("killed")


@pytest.fixture
def make(tmp_path):
    def build(*, own=False, schedule=None, updates=UPDATES, out="out", **options):
        model = Network()
        args = transformers.TrainingArguments(
            output_dir=str(tmp_path / out),
            max_steps=updates,
            per_device_train_batch_size=8,
            learning_rate=RATE,
            optim="sgd",
            use_cpu=True,
            report_to=[],
            save_steps=4,
            disable_tqdm=True,
            logging_steps=1,
            **options,
        )
        schedule = schedule or linear(updates, warmup_steps=2)
        if own:
            trainer = transformers.Trainer(model, args, train_dataset=Rows())
            trainer.lr_scheduler = ScheduleLR(trainer.create_optimizer(), schedule)
            return trainer
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        return transformers.Trainer(
            model, args, train_dataset=Rows(), optimizers=(optimizer, ScheduleLR(optimizer, schedule))
        )

    return build


def reference(clip=None, accumulate=1, updates=UPDATES):
    """The same training by hand, in float64: l1, l2, loss, clip coefficient of every update."""
    model = Network().double()
    rates = RATE * linear(updates, warmup_steps=2).multiplier
    data = iter(Rows())
    for rate in rates:
        total = 0.0
        model.zero_grad()
        for _ in range(accumulate):
            batch = [next(data) for _ in range(8)]
            x, y = (torch.stack([each[k] for each in batch]).double() for k in ("x", "labels"))
            loss = model(x, y)["loss"] / accumulate
            loss.backward()
            total += loss.item()
        g = torch.cat([p.grad.flatten() for p in model.parameters()])
        factor = min(1.0, clip / (g.norm().item() + 1e-6)) if clip else 1.0
        yield g.abs().sum().item(), g.norm().item(), total, factor, rate
        with torch.no_grad():
            for p in model.parameters():
                p -= rate * factor * p.grad


COLUMNS = ("grad_norm_l1", "grad_norm_l2", "loss", "clip_coefficient", "lr")


def check(found, expected):
    assert [row["step"] for row in found] == list(range(1, UPDATES + 1))
    assert_allclose([[row[c] for c in COLUMNS] for row in found], list(expected), rtol=2e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_every_update_equals_float64_before_clipping(make, tmp_path, rows, clip, accumulate):
    trainer = make(max_grad_norm=clip, gradient_accumulation_steps=accumulate)
    before = dict(vars(trainer.accelerator))
    record(trainer, tmp_path / "run.jsonl")
    trainer.train()
    header, found = rows(tmp_path / "run.jsonl")
    check(found, reference(clip, accumulate))
    assert (header["clipping"], header["planned_steps"], header["optimizer"]) == ("pre", UPDATES, "SGD")
    assert (found[0]["clip_coefficient"] < 1) == bool(clip)
    after = vars(trainer.accelerator)
    assert {name for name in ("backward", "clip_grad_norm_") if name in after or name in before} == set()


def test_training_is_bit_identical_with_it(make, tmp_path):
    results = []
    for log in (None, "run.jsonl"):
        trainer = make(max_grad_norm=0.05, out=f"out-{log}")
        if log:
            record(trainer, tmp_path / log, distance_every=2)
        trainer.train()
        results.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_killed_run_resumes_with_the_same_rates_and_a_log_without_holes(make, tmp_path, own, suffix):
    log = tmp_path / f"run.{suffix}"
    killed = make(own=own, max_grad_norm=0.05)
    recording = record(killed, log)
    killed.add_callback(Stop())
    with pytest.raises(InterruptedError):
        killed.train()
    recording.close()
    again = make(own=own, max_grad_norm=0.05)
    record(again, log)
    again.train(resume_from_checkpoint=True)
    assert "resumed" in log.read_text()
    norms = read_norms(log)
    expected = np.array(list(reference(0.05)))
    assert norms.steps.tolist() == list(range(1, UPDATES + 1))
    assert_allclose(norms.values, expected[:, 1] * expected[:, 3], rtol=2e-6)  # as SGD saw them, clipped
    assert_allclose(norms.learning_rate, expected[:, 4], rtol=1e-8)
    assert_allclose(norms.loss, expected[:, 2], rtol=2e-6)
    state = torch.load(tmp_path / "out" / "checkpoint-4" / "scheduler.pt", weights_only=True)
    assert (state["last_epoch"], state["total_steps"]) == (4, UPDATES)


def test_another_horizon_on_resume_is_refused(make):
    make().train()
    with pytest.raises(RefineError, match="the checkpoint has total_steps=8 and this run 12"):
        make(updates=12).train(resume_from_checkpoint=True)


def test_a_new_start_does_not_mix_runs(make, tmp_path, rows):
    log = tmp_path / "run.jsonl"
    trainer = make()
    record(trainer, log)
    trainer.train()
    trainer = make()
    record(trainer, log)
    with pytest.raises(RefineError, match="run.jsonl holds the log of a run; say step=N"):
        trainer.train()
    assert len(rows(log)[1]) == UPDATES
    trainer = make(max_grad_norm=0.05)
    record(trainer, log, step=0)
    with pytest.warns(RefineWarning, match="run.jsonl holds the log of an earlier run, which this one supersedes"):
        trainer.train()
    assert len(rows(log)[1]) == 2 * UPDATES
    assert_allclose(read_norms(log).loss, [row[2] for row in reference(0.05)], rtol=2e-6)


@pytest.mark.filterwarnings("ignore:.*which this one supersedes")
def test_a_trainer_that_starts_over_by_itself_supersedes_its_own_rows(make, tmp_path):
    """As `auto_find_batch_size` does."""
    log = tmp_path / "run.jsonl"
    trainer = make(max_grad_norm=0.05)
    start = copy.deepcopy(trainer.model.state_dict())
    record(trainer, log)
    trainer.add_callback(Stop())
    with pytest.raises(InterruptedError):
        trainer.train()
    trainer.remove_callback(Stop)
    trainer.model.load_state_dict(start)
    trainer.lr_scheduler = ScheduleLR(trainer.optimizer, linear(UPDATES, warmup_steps=2))
    trainer.train()
    norms = read_norms(log)
    assert norms.steps.tolist() == list(range(1, UPDATES + 1))
    assert_allclose(norms.loss, [row[2] for row in reference(0.05)], rtol=2e-6)


def test_a_trainer_that_never_calls_clip_is_recorded_before_the_step(make, tmp_path, rows, monkeypatch):
    """As before transformers 5.3, with max_grad_norm=0."""
    trainer = make(max_grad_norm=0.0)
    monkeypatch.setattr(trainer, "_get_grad_norm", lambda model, grad_norm=None: grad_norm, raising=False)
    record(trainer, tmp_path / "run.jsonl")
    trainer.train()
    check(rows(tmp_path / "run.jsonl")[1], reference())


def test_clipping_by_other_means_is_not_taken_for_the_gradient(make, tmp_path, monkeypatch):
    trainer = make(max_grad_norm=0.05)
    monkeypatch.setattr(
        trainer, "_clip_grad_norm", lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.05), raising=False
    )
    record(trainer, tmp_path / "run.jsonl")
    with pytest.warns(RefineWarning, match="not recorded: this Trainer clips them without accelerator.clip_grad_norm_"):
        trainer.train()
    assert not (tmp_path / "run.jsonl").exists()


def test_deepspeed_is_told_what_to_do_instead(make, tmp_path, monkeypatch):
    trainer = make()
    callback = record(trainer, tmp_path / "run.jsonl")
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    with pytest.warns(RefineWarning, match="not recorded: DeepSpeed keeps .* fit trainer_state.json"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, optimizer=trainer.optimizer)
    assert not (tmp_path / "run.jsonl").exists()


class Scaled(transformers.TrainerCallback):
    """What accelerate does with fp16, without the autocast that needs a GPU."""

    def __init__(self, trainer, monkeypatch):
        self.trainer, self.patch = trainer, monkeypatch
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def on_train_begin(self, args, state, control, **_):
        self.trainer.accelerator.native_amp = True
        self.patch.setattr(self.trainer.accelerator.state, "_mixed_precision", "fp16")


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_with_a_scaler_losses_and_norms_are_unscaled_and_skipped_updates_marked(
    make, tmp_path, rows, monkeypatch, clip
):
    trainer = make(max_grad_norm=clip, schedule=linear(UPDATES), own=True)
    trainer.add_callback(Scaled(trainer, monkeypatch))
    record(trainer, tmp_path / "run.jsonl")
    factors = iter([torch.inf, torch.inf] + [1.0] * 6)
    next(trainer.model.parameters()).register_hook(lambda g: g * next(factors))
    with pytest.warns(RefineWarning, match="ended after 6 of the 8 updates of its schedule"):
        trainer.train()  # which counts the skipped ones
    found = rows(tmp_path / "run.jsonl")[1]
    assert [row.get("skipped") for row in found] == [1, 1] + [None] * 6
    model, data = Network().double(), list(Rows())[16:24]
    x, y = (torch.stack([each[k] for each in data]).double() for k in ("x", "labels"))
    loss = model(x, y)["loss"]
    g = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])
    factor = min(1.0, clip / g.norm()) if clip else 1.0
    expected = [g.abs().sum(), g.norm(), loss.item(), factor, RATE]
    assert_allclose([found[2][c] for c in COLUMNS], expected, rtol=1e-5)


def test_a_schedule_of_another_length_is_reported_at_the_end(make, tmp_path):
    trainer = make(schedule=linear(20))
    record(trainer, tmp_path / "run.jsonl")
    with pytest.warns(RefineWarning, match="ended after 8 of the 20 updates of its schedule"):
        trainer.train()


def test_the_log_of_the_trainer_itself_has_the_same_norms(make, tmp_path, rows):
    trainer = make(max_grad_norm=0.05)
    record(trainer, tmp_path / "run.jsonl")
    trainer.train()
    history = json.loads((tmp_path / "out" / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    found = rows(tmp_path / "run.jsonl")[1]
    assert_allclose([row["grad_norm_l2"] for row in found], [row["grad_norm"] for row in history], rtol=1e-5)
