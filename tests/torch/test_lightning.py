import warnings

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from refine import RefineError, RefineWarning, linear, read_norms
from refine.torch import ScheduleLR

lightning = pytest.importorskip("lightning.pytorch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightning.pytorch.plugins.precision import MixedPrecision

    from refine.torch.lightning import GradNormCallback, configure

pytestmark = pytest.mark.filterwarnings("ignore", "error::refine.errors.RefineWarning")

EPOCHS, BATCHES, RATE = 2, 5, 0.2
COLUMNS = ("grad_norm_l1", "grad_norm_l2", "loss", "clip_coefficient", "lr")


class Module(lightning.LightningModule):
    def __init__(self, updates=None):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))
        self.updates = updates
        self.rates = []

    def training_step(self, batch, index):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return (self.layers(batch) - batch.flip(1)).square().mean()

    def configure_optimizers(self):
        updates = self.updates or self.trainer.estimated_stepping_batches
        return configure(torch.optim.SGD(self.parameters(), lr=RATE), linear(updates, warmup_steps=2))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(batches(), batch_size=None)


def batches():
    numbers = torch.Generator().manual_seed(2)
    return [torch.randn(8, 6, generator=numbers) for _ in range(BATCHES)]


def trainer(callback, tmp_path, **options):
    options = {"max_epochs": EPOCHS, "enable_checkpointing": False, **options}
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[callback] if callback else [],
        **options,
    )


def reference(clip=None, accumulate=1, autocast=False):
    """The same training by hand, in float64 (with autocast in float32): l1, l2, loss, clip coefficient, rate."""
    model = Module()
    model = model if autocast else model.double()
    updates = EPOCHS * -(-BATCHES // accumulate)
    rates = iter(RATE * linear(updates, warmup_steps=2).multiplier)
    for _ in range(EPOCHS):
        data = batches()
        while data:
            total, rate = 0.0, next(rates)
            model.zero_grad()
            for x in data[:accumulate]:
                x = x if autocast else x.double()
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = (model.layers(x) - x.flip(1)).square().mean() / accumulate
                loss.backward()
                total += loss.item()
            data = data[accumulate:]
            g = torch.cat([p.grad.double().flatten() for p in model.parameters()])
            factor = min(1.0, clip / (g.norm().item() + 1e-6)) if clip else 1.0
            yield g.abs().sum().item(), g.norm().item(), total, factor, rate
            with torch.no_grad():
                for p in model.parameters():
                    p -= rate * factor * p.grad


def check(found, expected, rtol=2e-6):
    expected = list(expected)
    assert [row["step"] for row in found] == list(range(1, len(expected) + 1))
    assert_allclose([[row[c] for c in COLUMNS] for row in found], expected, rtol=rtol)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_every_update_equals_float64_before_clipping(tmp_path, rows, clip, accumulate):
    callback = GradNormCallback(tmp_path / "run.jsonl")
    trainer(callback, tmp_path, gradient_clip_val=clip, accumulate_grad_batches=accumulate).fit(Module())
    header, found = rows(tmp_path / "run.jsonl")
    check(found, reference(clip, accumulate))
    assert (found[0]["clip_coefficient"] < 1) == bool(clip)
    expected = EPOCHS * -(-BATCHES // accumulate)
    assert (header["clipping"], header["planned_steps"], header["optimizer"]) == ("pre", expected, "SGD")


def test_bf16_mixed_equals_a_loop_with_autocast(tmp_path, rows):
    trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path, precision="bf16-mixed").fit(Module())
    check(rows(tmp_path / "run.jsonl")[1], reference(autocast=True), rtol=1e-5)


def test_with_a_scaler_losses_and_norms_are_unscaled_and_skipped_updates_marked(tmp_path, rows):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module = Module()
    factors = iter([1.0, torch.inf] + [1.0] * 8)
    next(module.parameters()).register_hook(lambda g: g * next(factors))
    trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path, plugins=[plugin], gradient_clip_val=0.05).fit(module)
    found = rows(tmp_path / "run.jsonl")[1]
    assert [row.get("skipped") for row in found] == [None, 1] + [None] * 8
    expected = next(reference(0.05))
    assert_allclose([found[0][c] for c in COLUMNS], expected, rtol=5e-3)  # float16 has 11 bits


def test_training_is_bit_identical_with_it(tmp_path):
    results = []
    for callback in (None, GradNormCallback(tmp_path / "run.csv", distance_every=2)):
        module = Module()
        trainer(callback, tmp_path, gradient_clip_val=0.05).fit(module)
        results.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*results)


class Failing(Module):
    def training_step(self, batch, index):
        if len(self.rates) == 7:
            raise InterruptedError("killed")
        return super().training_step(batch, index)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_failed_run_resumes_with_the_same_rates_and_a_log_without_holes(tmp_path, suffix):
    log = tmp_path / f"run.{suffix}"
    checkpoint = lightning.callbacks.ModelCheckpoint(tmp_path, "at", every_n_epochs=1)
    first = trainer(GradNormCallback(log), tmp_path, enable_checkpointing=True)
    first.callbacks.append(checkpoint)
    failing = Failing()
    with pytest.raises(InterruptedError):
        first.fit(failing)
    again = Module()
    trainer(GradNormCallback(log), tmp_path).fit(again, ckpt_path=tmp_path / "at.ckpt", weights_only=True)
    rates = RATE * linear(10, warmup_steps=2).multiplier
    assert_allclose(failing.rates[:5] + again.rates, rates, rtol=1e-12)
    assert "resumed" in log.read_text()
    norms, expected = read_norms(log), list(reference())
    assert norms.steps.tolist() == list(range(1, 11))
    assert_allclose(norms.values, [row[1] for row in expected], rtol=2e-6)
    assert_allclose(norms.learning_rate, rates, rtol=1e-8)


def test_a_new_start_does_not_mix_runs(tmp_path, rows):
    log = tmp_path / "run.jsonl"
    trainer(GradNormCallback(log), tmp_path).fit(Module())
    with pytest.raises(RefineError, match="run.jsonl holds the log of a run; say step=N"):
        trainer(GradNormCallback(log), tmp_path).fit(Module())
    assert len(rows(log)[1]) == 10
    with pytest.warns(RefineWarning, match="run.jsonl holds the log of an earlier run, which this one supersedes"):
        trainer(GradNormCallback(log, step=0), tmp_path, gradient_clip_val=0.05).fit(Module())
    assert len(rows(log)[1]) == 20
    assert_allclose(read_norms(log).loss, [row[2] for row in reference(0.05)], rtol=2e-6)


def test_a_run_that_ends_short_of_its_schedule_is_reported(tmp_path):
    runner = trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path, max_epochs=1)
    with pytest.warns(RefineWarning, match="ended after 5 of the 10 updates of its schedule"):
        runner.fit(Module(updates=10))


class Manual(Module):
    def __init__(self, optimizers=1):
        super().__init__()
        self.automatic_optimization = False
        self.count = optimizers

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=RATE) for _ in range(self.count)]

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        for part in batch.split(4):
            optimizer.zero_grad()
            self.manual_backward((self.layers(part) - part.flip(1)).square().mean())
            optimizer.step()


def test_manual_optimization_is_recorded_update_by_update(tmp_path, rows):
    trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path).fit(Manual())
    header, found = rows(tmp_path / "run.jsonl")
    assert header["planned_steps"] is None
    assert [row["step"] for row in found] == list(range(1, 2 * EPOCHS * BATCHES + 1))
    model, x = Module().double(), batches()[0][:4].double()
    loss = (model.layers(x) - x.flip(1)).square().mean()
    g = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])
    assert_allclose([found[0][c] for c in COLUMNS[:3]], [g.abs().sum(), g.norm(), loss.item()], rtol=2e-6)


def test_several_optimizers_are_refused(tmp_path):
    with pytest.raises(RefineError, match="the module has 2 optimizers and GradNormCallback records one"):
        trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path).fit(Manual(2))


class Endless(Module):
    def train_dataloader(self):
        class Rows(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(batches())

        return torch.utils.data.DataLoader(Rows(), batch_size=None)


def test_a_run_without_a_planned_end_says_none(tmp_path, rows):
    trainer(GradNormCallback(tmp_path / "run.jsonl"), tmp_path).fit(Endless(updates=10))
    header, found = rows(tmp_path / "run.jsonl")
    assert (header["planned_steps"], len(found)) == (None, 10)


def test_configure_steps_every_update():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    found = configure(optimizer, linear(10), step=3)
    assert found["optimizer"] is optimizer
    assert found["lr_scheduler"]["interval"] == "step"
    assert isinstance(found["lr_scheduler"]["scheduler"], ScheduleLR)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(RATE * 0.7)
