"""Train on handwritten digits in a plain loop, twice: the second run on the schedule that the first one's norms give.

    python examples/with_plain_loop.py runs/plain_loop

Needs torch and scikit-learn, seconds on a CPU. Between the two runs is ``refine fit runs/plain_loop/first.jsonl``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import refine
from refine.torch import GradNormRecorder, ScheduleLR


def train(schedule: refine.Schedule, peak: float, log: Path) -> float:
    """Train on a schedule with a peak learning rate, write the log, return the loss on held-out images."""
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images = images.float() / 16
    shuffled = torch.randperm(len(images))
    chosen, held_out = shuffled[:1400], shuffled[1400:]

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9)
    scheduler = ScheduleLR(optimizer, schedule)
    with GradNormRecorder(optimizer, log, total_steps=schedule.total_steps) as recorder:
        for _ in range(schedule.total_steps):
            batch = chosen[torch.randint(len(chosen), (64,))]
            noisy = images[batch] + 0.3 * torch.randn(64, 64)
            loss = cross_entropy(model(noisy), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            recorder.record(loss=loss)  # after backward, before clipping
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            scheduler.step()  # once per update
    scheduler.check_complete()

    model.eval()
    with torch.no_grad():
        return cross_entropy(model(images[held_out]), labels[held_out]).item()


def main() -> None:
    """Train, refine, train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/plain_loop"), help="a new folder")
    parser.add_argument("--updates", type=int, default=3000)
    options = parser.parse_args()
    out = options.out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")

    peak = 0.1
    first = train(refine.linear(options.updates, warmup_steps=options.updates // 20), peak, out / "first.jsonl")

    result = refine.refined_schedule(refine.read_norms(out / "first.jsonl"))
    print(result.summary().splitlines()[0], *result.warnings, sep="\n")
    refine.emit(result, out / "refined", force=True)
    new_peak = result.prior.suggested_peak(result.peak_lr_ratio) or peak

    second = train(result.schedule, new_peak, out / "second.jsonl")
    print(f"held-out loss {first:.4f} with warmup and linear decay from {peak:.3g}")
    print(f"held-out loss {second:.4f} with {out / 'refined'} from {new_peak:.3g} (one seed each: no ranking)")


if __name__ == "__main__":
    main()
