"""accelerate, in one process and, with torchrun, in two: this file is also the script that they run."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from refine import RefineWarning, linear
from refine.torch import GradNormRecorder, ScheduleLR

accelerate = pytest.importorskip("accelerate")

UPDATES, ROWS, RATE, CLIP = 110, 16, 0.2, 0.5
COLUMNS = ("grad_norm_l1", "grad_norm_l2", "clip_coefficient", "lr")


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))


def data():
    return torch.randn(UPDATES * ROWS, 6, generator=torch.Generator().manual_seed(2))


def train(folder, *, prepared, updates=UPDATES, accumulate=2):
    """Rows, rates and warnings of a run; every update is on `ROWS` rows, however they are split."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    scheduler = inner = ScheduleLR(optimizer, linear(updates))
    batch = ROWS // accumulate // accelerator.num_processes
    loader = torch.utils.data.DataLoader(data(), batch_size=batch)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if prepared:
        scheduler = accelerator.prepare(scheduler)
    recorder = GradNormRecorder(optimizer, folder / f"{prepared}.jsonl", total_steps=updates, scaler=accelerator.scaler)
    rates = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in loader:
            with accelerator.accumulate(model):
                loss = (model(x) - x.flip(1)).square().mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    rates.append(inner.get_last_lr()[0])
                    recorder.record(loss=loss)
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                if prepared or accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
        recorder.close()
        inner.check_complete()
    return rates, [str(each.message) for each in caught if issubclass(each.category, RefineWarning)]


def reference():
    """The same training in one process by hand, in float64."""
    model, rates = network().double(), RATE * linear(UPDATES).multiplier
    for x, rate in zip(data().double().split(ROWS), rates, strict=True):
        loss = (model(x) - x.flip(1)).square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        g = torch.cat([each.flatten() for each in gradients])
        factor = min(1.0, CLIP / (g.norm().item() + 1e-6))
        yield g.abs().sum().item(), g.norm().item(), factor, rate
        with torch.no_grad():
            for p, each in zip(model.parameters(), gradients, strict=True):
                p -= rate * factor * each


def check_right(rates, caught, found):
    expected = list(reference())
    assert caught == []
    assert_allclose(rates, [row[3] for row in expected], rtol=1e-12)
    assert [row["step"] for row in found] == list(range(1, UPDATES + 1))
    assert_allclose([[row[c] for c in COLUMNS] for row in found], expected, rtol=1e-5)


@pytest.mark.parametrize("prepared", [False, True])
def test_one_process(tmp_path, rows, prepared):
    check_right(*train(tmp_path, prepared=prepared), rows(tmp_path / f"{prepared}.jsonl")[1])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, __file__, folder], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def found_in(folder, prepared, process):
    return json.loads((folder / f"{prepared}-{process}.json").read_text())


def test_a_schedule_that_is_not_prepared_is_right_in_two_processes(two_processes, rows):
    header, found = rows(two_processes / "False.jsonl")
    assert header["processes"] == 2
    for process in range(2):
        check_right(*found_in(two_processes, False, process), found)


def test_a_prepared_schedule_runs_twice_as_fast_and_the_warning_names_both_counts(two_processes):
    for process in range(2):
        rates, caught = found_in(two_processes, True, process)
        schedule = linear(UPDATES)
        expected = [RATE * schedule.multiplier[min(2 * t, UPDATES - 1)] for t in range(UPDATES)]
        assert_allclose(rates, expected, rtol=1e-12)
        fast, past = caught
        assert fast == (
            "the schedule was stepped 100 times in 50 optimizer updates; step it once per update: "
            "not per batch of an accumulation, nor through accelerator.prepare, which steps it once per process"
        )
        assert past.startswith(
            "the schedule was stepped 111 times and has 110 updates (56 optimizer updates were seen)"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for way in (False, True):
        result = train(target, prepared=way)
        (target / f"{way}-{torch.distributed.get_rank()}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()
