"""Each code export run in its framework: the rate of every update that the optimizer really uses."""

import importlib.util
import os
import shutil
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refine import Schedule, cosine, linear, read_norms, refined_schedule
from refine.export import export, render

PEAK = 0.25
FLOAT32 = {"rtol": 1e-6, "atol": 2e-7 * PEAK}


def wsd(total_steps, warmup, cooldown):
    t = np.arange(total_steps)
    return Schedule(np.minimum(np.minimum((t + 1) / warmup, (total_steps - t) / cooldown), 1.0))


@pytest.fixture(params=["digits", "cosine", "wsd", "linear of 1", "linear of 2"])
def schedule(request, root):
    if request.param == "digits":
        norms = read_norms(root / "data" / "fashion_mnist_sgd.csv")
        return refined_schedule(norms).refined.resample(97)
    short = {"cosine": cosine(40, warmup_steps=5), "wsd": wsd(30, 4, 9)}
    return {**short, "linear of 1": linear(1), "linear of 2": linear(2)}[request.param]


@pytest.fixture
def exported(schedule, tmp_path, monkeypatch):
    """Write a target's file and import it as a script beside it would."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name):
        export(schedule, name, tmp_path / f"next_{name}.py", peak_lr=PEAK)
        monkeypatch.delitem(sys.modules, f"next_{name}", raising=False)
        module = importlib.import_module(f"next_{name}")
        monkeypatch.delitem(sys.modules, f"next_{name}")
        assert_allclose([module.multiplier(t) for t in range(len(schedule))], schedule.multiplier, rtol=0, atol=1e-9)
        assert module.multiplier(len(schedule) + 3) == module.multiplier(len(schedule) - 1)
        return module

    return make


def check(used, schedule, **within):
    """One rate for each update, first and last included."""
    assert len(used) == len(schedule)
    assert_allclose(used, PEAK * schedule.multiplier, **(within or {"rtol": 0, "atol": 1e-9}))


def parameter_of(torch):
    return torch.nn.Parameter(torch.zeros(1))


def test_torch(exported, schedule):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([parameter_of(torch)], lr=PEAK)
    scheduler = exported("torch").make_scheduler(optimizer)
    used = []
    for _ in range(len(schedule)):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    check(used, schedule)


@pytest.fixture
def hf(tmp_path):
    """Real Trainers of a small model, the rates of their updates, and what makes them stop early."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    used = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = parameter_of(torch), parameter_of(torch)

        def forward(self, x, labels=None):
            return {"loss": ((x * self.weight + self.bias - 1.0) ** 2).mean()}

    class Watch(transformers.TrainerCallback):
        def __init__(self, stop_at):
            self.stop_at = stop_at

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            (rate,) = {group["lr"] for group in optimizer.param_groups}
            used.append(rate)

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= self.stop_at == state.global_step

    def trainer(max_steps, stop_at=None, optimizers=None, **settings):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"),
            learning_rate=PEAK,
            weight_decay=0.1,
            max_steps=max_steps,
            per_device_train_batch_size=1,
            use_cpu=True,
            save_strategy="steps",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **settings,
        )
        data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 10
        model = Model()
        both = {} if optimizers is None else {"optimizers": optimizers(model)}
        return transformers.Trainer(model, arguments, train_dataset=data, callbacks=[Watch(stop_at)], **both)

    return SimpleNamespace(trainer=trainer, used=used, out=tmp_path / "out", torch=torch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("recipe", ["as printed", "optimizers="])
def test_hf_trainer(exported, schedule, hf, accumulation, recipe):
    module = exported("hf")
    torch, half = hf.torch, len(schedule) // 2

    def optimizers(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=PEAK)
        return optimizer, module.make_scheduler(optimizer)

    def train(stop_at, **resume):
        settings = {"gradient_accumulation_steps": accumulation, "save_steps": max(half, 1)}
        if recipe == "as printed":
            *lines, run = render(schedule, "hf", "next_hf.py", peak_lr=PEAK).use
            names = {"Trainer": lambda _: hf.trainer(len(schedule), stop_at, **settings)}
            exec("\n".join(lines[1:]), {**vars(module), **names}, names)
            assert run.startswith("trainer.train()")
            trainer = names["trainer"]
            assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]
        else:
            trainer = hf.trainer(len(schedule), stop_at, optimizers, **settings)
        trainer.train(**resume)

    if half:
        train(stop_at=half)
    train(stop_at=None, **({"resume_from_checkpoint": str(hf.out / f"checkpoint-{half}")} if half else {}))
    check(hf.used, schedule)


CONTINUED = Schedule(wsd(30, 4, 9).multiplier, {"updates_done": 21})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a continued schedule and give the lines that say how to use it, in which texts are replaced."""
    monkeypatch.syspath_prepend(tmp_path)

    def lines(name, **texts):
        monkeypatch.delitem(sys.modules, f"continued_{name}", raising=False)
        use = "\n".join(export(CONTINUED, name, tmp_path / f"continued_{name}.py", peak_lr=PEAK).use)
        for old, new in texts.items():
            assert old in use
            use = use.replace(old, str(new))
        return use

    return lines


def test_torch_goes_on_from_another_schedule(recipe):
    torch = pytest.importorskip("torch")
    old = torch.optim.AdamW([parameter_of(torch)], lr=0.5 * PEAK)
    optimizer = torch.optim.AdamW([parameter_of(torch)], lr=0.5 * PEAK)
    names = {"optimizer": optimizer, "checkpoint": {"optimizer": old.state_dict()}}
    before, last = recipe("torch").rsplit("\n", 1)
    exec(before, names)
    used = []
    for _ in range(21, 30):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        exec(last, names)
    assert_allclose(used, PEAK * CONTINUED.multiplier[21:], rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_hf_goes_on_from_another_schedule(recipe, hf):
    hf.trainer(40, stop_at=21, save_steps=7).train()
    names = {"Trainer": lambda _: hf.trainer(30, save_steps=7), "torch": hf.torch}
    lines = recipe("hf", OUTPUT_DIR=hf.out)
    kept = hf.out / "kept"
    shutil.copytree(hf.out / "checkpoint-21", kept)
    exec(lines, names)
    assert_allclose(hf.used[21:], PEAK * CONTINUED.multiplier[21:], rtol=1e-9)

    hf.used.clear()  # and again from a checkpoint of its own
    trainer = hf.trainer(30)
    trainer.create_optimizer()
    trainer.lr_scheduler = names["make_scheduler"](trainer.optimizer)
    trainer.train(resume_from_checkpoint=str(hf.out / "checkpoint-28"))
    assert_allclose(hf.used, PEAK * CONTINUED.multiplier[28:], rtol=1e-9)
    with pytest.raises(ValueError, match="to go on from another one, load the optimizer only, set its initial_lr"):
        trainer.train(resume_from_checkpoint=str(kept))


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_from_another_schedule(recipe, tmp_path):
    torch, lightning = pytest.importorskip("torch"), pytest.importorskip("lightning")
    used = []

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = parameter_of(torch)

        def training_step(self, batch, _):
            return (batch * self.weight - 1.0).square().mean()

        def on_before_optimizer_step(self, optimizer):
            used.append(optimizer.param_groups[0]["lr"])

    class Old(Model):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=PEAK)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trainer(steps):
        return lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    data = torch.utils.data.DataLoader(torch.ones(100, 1))
    old = trainer(21)
    old.fit(Old(), data)
    old.save_checkpoint(tmp_path / "OLD.ckpt")
    used.clear()
    lines = recipe("lightning", **{"OLD.ckpt": tmp_path / "OLD.ckpt", "NEW.ckpt": tmp_path / "NEW.ckpt", "...": "data"})
    first, method, *rest = lines.split("\n")
    names = {"torch": torch, "data": data, "trainer": trainer(30)}
    exec("\n".join((first, method, rest.pop(0))), names)
    Model.configure_optimizers = names["configure_optimizers"]
    names["model"] = Model()
    exec("\n".join(rest), names)
    assert_allclose(used, PEAK * CONTINUED.multiplier[21:], rtol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_hf_in_a_loop_with_accelerate(exported, schedule):
    torch, accelerate = pytest.importorskip("torch"), pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK)
    scheduler = exported("hf").make_scheduler(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    used = []
    for _ in range(4 * len(schedule)):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1, 1)).sum())
            if accelerator.sync_gradients:
                used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
    check(used, schedule)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulation", [1, 3])
def test_lightning(exported, schedule, tmp_path, accumulation):
    torch, lightning = pytest.importorskip("torch"), pytest.importorskip("lightning")
    configure = exported("lightning").configure
    used = []

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = parameter_of(torch)

        def training_step(self, batch, _):
            return (batch * self.weight - 1.0).square().mean()

        def on_before_optimizer_step(self, optimizer):
            used.append(optimizer.param_groups[0]["lr"])

        def configure_optimizers(self):
            return configure(torch.optim.SGD(self.parameters(), lr=PEAK))

    trainer = lightning.Trainer(
        max_steps=len(schedule),
        accumulate_grad_batches=accumulation,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(12, 1)))
    check(used, schedule)


class TestOptax:
    @pytest.fixture(autouse=True)
    def optax(self):
        return pytest.importorskip("optax")

    def test_a_jitted_loop(self, exported, schedule, optax):
        import jax
        import jax.numpy as jnp

        make_schedule = exported("optax").make_schedule
        optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=make_schedule(PEAK))

        @jax.jit
        def update(state, _):
            moves, state = optimizer.update(jnp.ones(1), state)
            return state, (state.hyperparams["learning_rate"], -moves[0])

        _, (named, moved) = jax.lax.scan(update, optimizer.init(jnp.zeros(1)), length=len(schedule))
        check(np.asarray(named), schedule, **FLOAT32)
        check(np.asarray(moved), schedule, **FLOAT32)

    def test_counts_of_any_kind(self, exported, schedule):
        import jax.numpy as jnp

        module = exported("optax")
        counts = jnp.arange(len(schedule) + 3)
        factors = np.asarray(module.schedule(counts))
        expected = np.append(schedule.multiplier, [schedule.multiplier[-1]] * 3)
        assert_allclose(factors, expected, rtol=5e-7, atol=1e-9)  # small factors too
        assert float(module.schedule(len(schedule) - 1)) == factors[len(schedule) - 1]


class TestKeras:
    @pytest.fixture(autouse=True)
    def keras(self, monkeypatch):
        if importlib.util.find_spec("keras") is None:
            pytest.skip("no keras")
        os.environ.setdefault("KERAS_BACKEND", "torch")
        return pytest.importorskip("keras")

    @pytest.mark.filterwarnings("ignore")
    def test_fit(self, exported, schedule, keras):
        used = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                used.append(float(self.model.optimizer.learning_rate))

        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(optimizer=keras.optimizers.SGD(exported("keras").RefinedSchedule(PEAK)), loss="mse")
        x = np.ones((len(schedule), 1), "float32")
        model.fit(x, x, batch_size=1, verbose=0, callbacks=[Watch()])
        check(used, schedule, **FLOAT32)

    @pytest.mark.filterwarnings("ignore")
    def test_every_update_moves_by_its_rate(self, exported, schedule, keras):
        optimizer = keras.optimizers.SGD(exported("keras").RefinedSchedule(PEAK))
        weight = keras.Variable([0.0])
        moved = []
        for _ in range(len(schedule)):
            weight.assign([0.0])
            optimizer.apply([keras.ops.ones(1)], [weight])
            moved.append(-keras.ops.convert_to_numpy(weight.value).item())
        check(moved, schedule, **FLOAT32)

    @pytest.mark.filterwarnings("ignore")
    def test_past_the_end_the_last_rate_holds(self, exported, schedule, keras):
        made = exported("keras").RefinedSchedule(PEAK)
        steps = [len(schedule) - 1, len(schedule), len(schedule) + 9]
        expected = [PEAK * schedule.multiplier[-1]] * 3
        assert_allclose([float(made(step)) for step in steps], expected, **FLOAT32)
        assert_allclose(keras.ops.convert_to_numpy(made(keras.ops.convert_to_tensor(steps))), expected, **FLOAT32)

    def test_it_is_saved_with_its_optimizer(self, exported, schedule, keras):
        optimizer = keras.optimizers.SGD(exported("keras").RefinedSchedule(PEAK))
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert float(again.learning_rate) == float(optimizer.learning_rate)
        assert float(again.learning_rate) == pytest.approx(PEAK * schedule.at(0), rel=1e-6)


@pytest.fixture
def timm(monkeypatch):
    """Use timm's own Scheduler; without torchvision, for which the rest of timm asks."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("no timm")
    bare = types.ModuleType("timm")
    bare.__path__ = list(spec.submodule_search_locations)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", bare)
    yield
    for name in [name for name in sys.modules if name.startswith("timm.")]:
        del sys.modules[name]


def test_timm(exported, schedule, timm):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([{"params": [parameter_of(torch)], "lr_scale": 0.5}, {"params": []}], lr=PEAK)
    scheduler = exported("timm").RefinedScheduler(optimizer)
    used, scaled, num_updates = [], [], 0
    while num_updates < len(schedule):  # as in timm's train.py, in epochs of 4 updates
        used.append(optimizer.param_groups[1]["lr"])
        scaled.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        num_updates += 1
        scheduler.step_update(num_updates=num_updates, metric=None)
        if num_updates % 4 == 0:
            scheduler.step(num_updates // 4, None)
    check(used, schedule)
    assert_allclose(scaled, 0.5 * np.array(used), rtol=1e-12)


def test_nanogpt(exported, schedule, tmp_path):
    exported("nanogpt")
    # The loop of karpathy/nanoGPT's train.py, with the whole file pasted over its get_lr(it).
    train = f"""
import math
learning_rate, decay_lr, max_iters = {PEAK}, True, {len(schedule) - 1}
{(tmp_path / "next_nanogpt.py").read_text()}
iter_num = 0
used = []
while True:
    lr = get_lr(iter_num) if decay_lr else learning_rate
    used.append(lr)
    iter_num += 1
    if iter_num > max_iters:
        break
"""
    found = {}
    exec(train, found)
    check(found["used"], schedule)


def test_composer_order(exported, schedule):
    """The order of composer/trainer/trainer.py (0.32.1): step the schedulers, then count the batch."""
    torch = pytest.importorskip("torch")
    refined = exported("composer").refined
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=SimpleNamespace(value=0)), batch=None)
    optimizer = torch.optim.SGD([parameter_of(torch)], lr=PEAK)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: refined(state, 1.0))
    used = []
    for number in range(len(schedule)):
        state.batch = "data"
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        state.timestamp.batch.value = number + 1
    check(used, schedule)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_composer(exported, schedule, ratio):
    composer, torch = pytest.importorskip("composer"), pytest.importorskip("torch")
    used = []

    class Watch(composer.Callback):
        def batch_start(self, state, logger):
            used.append(state.optimizers[0].param_groups[0]["lr"])

    class Model(composer.ComposerModel):
        def __init__(self):
            super().__init__()
            self.weight = parameter_of(torch)

        def forward(self, batch):
            return batch[0] * self.weight

        def loss(self, outputs, batch):
            return (outputs - 1.0).square().mean()

    model = Model()
    data = torch.utils.data.TensorDataset(torch.ones(12, 1), torch.ones(12, 1))
    trainer = composer.Trainer(
        model=model,
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=1),
        optimizers=torch.optim.SGD(model.parameters(), lr=PEAK),
        max_duration=f"{len(schedule)}ba",
        schedulers=exported("composer").refined,
        step_schedulers_every_batch=True,
        scale_schedule_ratio=ratio,
        device="cpu",
        callbacks=[Watch()],
        progress_bar=False,
    )
    trainer.fit()
    check(used[:: int(ratio)], schedule)


@pytest.mark.filterwarnings("ignore")
def test_levanter(exported, schedule, monkeypatch):
    config = pytest.importorskip("levanter.optim.config")
    import jax

    monkeypatch.setattr(config.LrSchedule, "_choice_registry", dict(config.LrSchedule._choice_registry))
    exported("levanter")
    adam = config.AdamConfig(learning_rate=PEAK, warmup=0, lr_schedule=config.LrSchedule.get_choice_class("refined")())
    rates = jax.jit(jax.vmap(adam.lr_scheduler(len(schedule))))(np.arange(len(schedule)))
    check(np.asarray(rates), schedule, **FLOAT32)
    with pytest.raises(ValueError, match="set optimizer.warmup to 0 and trainer.num_train_steps to the updates"):
        adam.lr_scheduler(len(schedule) + 1)
