"""Train with DataLoaders that have workers; run by test_workers.py: KIND METHOD FOLDER.

The first recorder of "plain" is made where a worker that imports this file makes it again.
"""

import multiprocessing
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from refine.torch import GradNormRecorder

UPDATES, BATCH = 30, 4  # fewer than what a recorder holds back: no row is there when the workers start
KIND, METHOD, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])

warnings.filterwarnings("error", module="refine")


class Rows(Dataset):
    def __len__(self):
        return UPDATES * BATCH

    def __getitem__(self, index):
        return torch.full((6,), float(index)).sin()


class Labelled(Rows):
    def __getitem__(self, index):
        return {"x": super().__getitem__(index)}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return {"loss": (self.layer(x) - x.flip(1)).square().mean()}


network = Network()
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
recorder = GradNormRecorder(optimizer, FOLDER / "run.jsonl") if KIND == "plain" else None


def plain(recorder):
    for batch in DataLoader(Rows(), batch_size=BATCH, num_workers=1):
        optimizer.zero_grad()
        loss = network(batch)["loss"]
        loss.backward()
        recorder.record(loss=loss)
        optimizer.step()
    recorder.close()


def huggingface():
    from transformers import Trainer, TrainingArguments

    from refine.torch.huggingface import record

    arguments = TrainingArguments(
        output_dir=str(FOLDER / "trainer"),
        max_steps=UPDATES,
        per_device_train_batch_size=BATCH,
        **{"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "no", "report_to": []},
        **{"dataloader_num_workers": 1, "dataloader_pin_memory": False, "use_cpu": True, "disable_tqdm": True},
    )
    trainer = Trainer(network, arguments, train_dataset=Labelled(), eval_dataset=Labelled())
    record(trainer, FOLDER / "run.jsonl")
    trainer.train()


def lightning():
    from lightning.pytorch import LightningModule, Trainer

    from refine.torch.lightning import GradNormCallback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network

        def training_step(self, batch, index):
            return self.network(batch)

        def validation_step(self, batch, index):
            self.network(batch)

        def configure_optimizers(self):
            return optimizer

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=10,
        default_root_dir=FOLDER,
        callbacks=[GradNormCallback(FOLDER / "run.jsonl")],
        **quiet,
    )
    trainer.fit(Module(), *(DataLoader(Rows(), batch_size=BATCH, num_workers=1) for _ in range(2)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    multiprocessing.set_start_method(METHOD)
    if KIND == "plain":
        plain(recorder)
        plain(GradNormRecorder(optimizer, FOLDER / "run.csv"))
    else:
        {"huggingface": huggingface, "lightning": lightning}[KIND]()
