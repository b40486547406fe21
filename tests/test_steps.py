import copy
import json
import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine import RefineError, linear, steps_in


def test_the_arithmetic_is_shown_with_units():
    assert str(steps_in(epochs=10, samples=60_000, batch_size=64)) == (
        "9,380 updates = 10 epochs x 938 (ceil(60,000 samples / (64 a batch x 1 process)) = 938 batches, 1 an update)"
    )
    assert str(steps_in(epochs=1.5, samples=101, batch_size=8, accumulate=2, world_size=2, drop_last=True)) == (
        "5 updates = ceil(1.5 epochs x 3) (floor(101 samples / (8 a batch x 2 processes)) = 6 batches, 2 an update)"
    )
    assert str(steps_in(epochs=1, samples=5, batch_size=8)) == (
        "1 update = 1 epoch x 1 (ceil(5 samples / (8 a batch x 1 process)) = 1 batch, 1 an update)"
    )


def test_everything_but_str_sees_an_int():
    steps = steps_in(epochs=2, samples=100, batch_size=10)
    assert (steps, f"{steps}", f"{steps:05d}", repr(steps), json.dumps([steps])) == (20, "20", "00020", "20", "[20]")
    assert linear(steps).total_steps == 20
    assert type(steps + 1) is int
    for other in (copy.deepcopy(steps), pickle.loads(pickle.dumps(steps))):
        assert str(other) == str(steps)


@given(
    st.floats(0.01, 20.0),
    st.integers(1, 500),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
)
def test_it_counts_as_a_loop_does(epochs, samples, batch_size, accumulate, world_size, drop_last):
    """Updates counted one by one: the rest of an epoch is an update, a part of an epoch a part of its updates."""
    sizes = [
        len(range(i, min(i + batch_size * world_size, samples))) for i in range(0, samples, batch_size * world_size)
    ]
    batches = sum(size == batch_size * world_size or not drop_last for size in sizes)
    call = {"samples": samples, "batch_size": batch_size, "accumulate": accumulate, "world_size": world_size}
    if batches == 0:
        with pytest.raises(RefineError, match="so drop_last leaves none"):
            steps_in(epochs=epochs, drop_last=drop_last, **call)
        return
    in_an_epoch = len(range(0, batches, accumulate))
    assert steps_in(epochs=epochs, drop_last=drop_last, **call) == math.ceil(epochs * in_an_epoch)
    assert steps_in(epochs=2, drop_last=drop_last, **call) == 2 * in_an_epoch


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"samples": 0}, "samples is 0; it must be an integer >= 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be an integer >= 1"),
        ({"accumulate": True}, "accumulate is True; it must be an integer >= 1"),
        ({"world_size": "4"}, "world_size is '4'; it must be an integer >= 1"),
        ({"epochs": 0}, "epochs is 0; it must be a finite number above 0"),
        ({"epochs": math.nan}, "epochs is nan; it must be a finite number above 0"),
        ({"epochs": "3"}, "epochs is '3'; it must be a finite number above 0"),
        (
            {"samples": 7, "drop_last": True, "world_size": 2},
            "samples is 7 and a full batch of all processes 8, so drop_last leaves none; take a smaller batch_size, "
            "or keep the last",
        ),
    ],
)
def test_errors(change, text):
    with pytest.raises(RefineError) as caught:
        steps_in(**{"epochs": 1, "samples": 10, "batch_size": 4, **change})
    assert str(caught.value) == text


def test_it_needs_neither_torch_nor_numpy_to_count(tmp_path):
    script = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; import refine.steps as s; "
    script += "print(s.steps_in(epochs=1, samples=9, batch_size=2) + 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


CASES = [(2.5, 23, 4, 3, False), (1.1, 40, 4, 2, False), (3, 23, 4, 2, True), (2, 3, 4, 8, False)]


@pytest.mark.parametrize(("epochs", "samples", "batch_size", "accumulate", "drop_last"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_hugging_face_trainer_makes_as_many(tmp_path, epochs, samples, batch_size, accumulate, drop_last):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

    class Model(torch.nn.Linear):
        def forward(self, x, labels=None):
            return {"loss": super().forward(x).square().mean()}

    trainer = transformers.Trainer(
        model=Model(2, 1),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            dataloader_drop_last=drop_last,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"x": torch.ones(2)} for _ in range(samples)],
    )
    trainer.train()
    assert trainer.state.global_step == steps_in(
        epochs=epochs, samples=samples, batch_size=batch_size, accumulate=accumulate, drop_last=drop_last
    )


@pytest.mark.parametrize(("samples", "batch_size", "accumulate", "drop_last"), [(23, 4, 4, False), (23, 4, 2, True)])
@pytest.mark.filterwarnings("ignore")
def test_lightning_makes_as_many(tmp_path, samples, batch_size, accumulate, drop_last):
    torch, lightning = pytest.importorskip("torch"), pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.ones(samples, 2))
    trainer = lightning.Trainer(
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size, drop_last=drop_last))
    expected = steps_in(epochs=3, samples=samples, batch_size=batch_size, accumulate=accumulate, drop_last=drop_last)
    assert trainer.global_step == trainer.estimated_stepping_batches == expected


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("samples", [24, 25, 29, 31])
def test_accelerate_shards_as_many_batches(samples, world_size, drop_last):
    torch, accelerate = pytest.importorskip("torch"), pytest.importorskip("accelerate")
    sampler = torch.utils.data.BatchSampler(range(samples), 4, drop_last)
    shards = [accelerate.data_loader.BatchSamplerShard(sampler, world_size, i) for i in range(world_size)]
    counts = {len(list(shard)) for shard in shards}
    assert counts == {steps_in(epochs=1, samples=samples, batch_size=4, world_size=world_size, drop_last=drop_last) + 0}
