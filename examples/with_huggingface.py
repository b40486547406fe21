"""Train a byte-level GPT-2 with the Trainer, twice: the second run on a schedule that the first one's log gives.

    python examples/with_huggingface.py runs/huggingface

Needs transformers and accelerate, under a minute on a CPU. The text is the source of Python's standard library.
Between the two runs is ``refine fit runs/huggingface/first.jsonl``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import refine
from refine.torch import ScheduleLR
from refine.torch.huggingface import record

CONTEXT = 64


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Pieces of a text that do not overlap, as bytes."""

    def __init__(self, text: bytes) -> None:
        self.windows = torch.tensor(bytearray(text[: len(text) // CONTEXT * CONTEXT])).long().view(-1, CONTEXT)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


def train(schedule: refine.Schedule, peak: float, log: Path) -> float:
    """Train on a schedule with a peak learning rate, write the log, return the loss on held-out text."""
    set_seed(0)
    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))[:2_000_000]
    size = {"vocab_size": 256, "n_positions": CONTEXT, "n_embd": 96, "n_layer": 2, "n_head": 4}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**size, **dropout, bos_token_id=0, eos_token_id=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.05)
    arguments = TrainingArguments(
        output_dir=str(log.parent / "trainer"),
        max_steps=schedule.total_steps,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        max_grad_norm=1.0,
        dataloader_num_workers=1,
        dataloader_pin_memory=torch.cuda.is_available(),
        **{"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True},
    )
    data = {"train_dataset": Windows(text[:-100_000]), "eval_dataset": Windows(text[-100_000:])}
    # In place of learning_rate and lr_scheduler_type:
    trainer = Trainer(model, arguments, **data, optimizers=(optimizer, ScheduleLR(optimizer, schedule)))
    record(trainer, log)
    trainer.train()
    return float(trainer.evaluate()["eval_loss"])


def main() -> None:
    """Train, refine, train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/huggingface"), help="a new folder")
    parser.add_argument("--updates", type=int, default=600)
    options = parser.parse_args()
    out = options.out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")

    peak = 2e-3
    first = train(refine.linear(options.updates, warmup_steps=options.updates // 20), peak, out / "first.jsonl")

    result = refine.fit(out / "first.jsonl")
    print(result.summary())
    result.save(out / "refined")
    name = "refined" if result.already_ran else result.default  # never the same schedule twice
    new_peak = result.peak_lr(name) or peak

    second = train(result.schedules[name], new_peak, out / "second.jsonl")
    print(f"held-out loss {first:.4f} with warmup and linear decay from {peak:.3g}")
    print(f"held-out loss {second:.4f} with {name} from {new_peak:.3g} (one seed each: no ranking)")


if __name__ == "__main__":
    main()
