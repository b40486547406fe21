"""Train a small network on scikit-learn's digits and log the gradient norms of every update.

    python examples/record_digits.py --optimizer adamw data/digits_adamw.csv
    python examples/record_digits.py --optimizer sgd data/digits_sgd.csv
    refine fit data/digits_adamw.csv

Needs torch and scikit-learn (``pip install 'lr-refine[test]'``), seconds on a CPU. These two commands made
the logs in ``data/``. The norms are those of the whole gradient, before the optimizer sees it: copy the
three lines below ``loss.backward()`` into a training loop of your own.
"""

from __future__ import annotations

import argparse
import csv

import torch
from sklearn.datasets import load_digits
from torch import nn

RECIPES = {
    "adamw": (torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.05}),
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
}


def main() -> None:
    """Parse the command line, train, write the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="CSV file to write")
    parser.add_argument("--optimizer", choices=sorted(RECIPES), required=True)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    inputs, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    inputs = inputs.float() / 16.0
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    make, settings = RECIPES[options.optimizer]
    optimizer = make(model.parameters(), **settings)
    last, warmup = options.updates, options.warmup
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warmup, (last - t) / (last - warmup + 1))
    )

    with open(options.log, "w", newline="") as stream:
        log = csv.writer(stream)
        log.writerow(["step", "grad_norm_l1", "grad_norm_l2", f"lr-{type(optimizer).__name__}", "loss"])
        for step in range(1, options.updates + 1):
            chosen = torch.randint(len(inputs), (options.batch_size,))
            images = inputs[chosen] + 0.3 * torch.randn(options.batch_size, 64)
            loss = nn.functional.cross_entropy(model(images), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            l1, l2 = gradient.abs().sum(dtype=torch.float64), gradient.double().norm()
            row = [l1.item(), l2.item(), optimizer.param_groups[0]["lr"], loss.item()]
            log.writerow([step, *(f"{value:.6g}" for value in row)])
            optimizer.step()
            scheduler.step()
    print(f"{options.log}: {options.updates} updates, last loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
