"""The deep problems: many runs are each run alone, nothing held out leaks, and the large sizes are real."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from refine import from_name  # noqa: E402
from refine.bench.batched import train  # noqa: E402
from refine.bench.data import datasets  # noqa: E402
from refine.bench.deep import DEEP, RUNS_AT_ONCE, SIZES  # noqa: E402
from refine.bench.deep_tasks import HELD_OUT, NOISE, Language, encoded, make  # noqa: E402
from refine.bench.networks import Decoder  # noqa: E402

TEXT = b"".join(b"the %d-th line of a text, then another\n" % i for i in range(2000))
NAMES = [problem.name for problem in DEEP]


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """Images of ten classes, a bright row each, in noise; a text that counts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def some(count):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 60, (count, 28, 28))
        images[np.arange(count), 2 * labels + 4] += 190
        return images.astype(np.uint8), labels

    images = datasets.Images(*some(1500), *some(400))
    monkeypatch.setattr(datasets, "load_images", lambda name: images)
    monkeypatch.setattr(datasets, "load_text", lambda name: TEXT)
    yield images
    torch.set_num_threads(threads)


def task_of(name, scale="smoke"):
    return next(problem for problem in DEEP if problem.name == name).make(scale, "cpu")


def batches(task, seeds):
    parts = [task.batch(torch.Generator().manual_seed(seed)) for seed in seeds]
    return tuple(torch.stack(part) for part in zip(*parts, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_runs_at_once_have_the_gradients_of_each_alone(name):
    task = task_of(name)
    parameters = {
        key: value * (1 + 0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(3)))
        for key, value in task.stack([4, 5], 2).items()
    }
    batch = batches(task, [4, 5])
    losses, gradients = task.gradients(parameters, batch)
    for i in range(2):
        for j in range(2):
            own = {key: value[i, j].clone().requires_grad_() for key, value in parameters.items()}
            loss = task._loss(own, *(part[i] for part in batch))
            loss.backward()
            torch.testing.assert_close(losses[i, j], loss.detach(), rtol=1e-5, atol=0.0)
            for key, value in own.items():
                torch.testing.assert_close(gradients[key][i, j], value.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_start_and_minibatches_and_nothing_else(name):
    task = task_of(name)
    before = torch.random.get_rng_state()
    one, same, other = task.start(1), task.start(1), task.start(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    first, again, differs = (batches(task, [seed])[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, differs)


@pytest.mark.parametrize("problem", DEEP, ids=NAMES)
@pytest.mark.parametrize("last", [False, True])
def test_a_smoke_run_learns(problem, last):
    task, optimizer = problem.make("smoke", "cpu"), problem.optimizers[-1 if last else 0]
    steps = problem.steps["smoke"]
    start = task.evaluate(task.stack([0], 1))
    multiplier = from_name("linear:warmup_fraction=0.05", steps).multiplier
    found = train(task, optimizer, multiplier[None, None], np.array([[optimizer.rate]]), [0])[0][0]
    assert found.train_loss < 0.8 * float(start[0])
    assert found.test_loss < 0.8 * float(start[1])


def test_problems_are_told_apart():
    assert len(set(NAMES)) == len(DEEP)
    for problem in DEEP:
        assert problem.data in datasets.DATASETS
        assert len({optimizer.name for optimizer in problem.optimizers}) == len(problem.optimizers)
        assert problem.steps["smoke"] < problem.steps["cpu"] < problem.steps["gpu"]


def test_evaluation_of_images_is_the_mean_over_fixed_ones(small_data):
    task = task_of("fashion-cnn")
    parameters = task.stack([0, 1], 2)
    train_loss, test_loss = task.evaluate(parameters)
    assert train_loss.dtype == torch.float64
    assert train_loss.shape == (2, 2)
    # All 1,500 training images, all 400 others; the network itself is that of seed 1.
    task.network.load_state_dict(task.start(1))
    for found, images, labels in ((train_loss, *small_data[:2]), (test_loss, *small_data[2:])):
        scaled = (images / 255.0 - small_data.train.mean() / 255.0) / (small_data.train.std() / 255.0)
        logits = task.network(torch.tensor(scaled[:, None], dtype=torch.float32)).double()
        expected = F.cross_entropy(logits, torch.tensor(labels)).item()
        np.testing.assert_allclose(found[1].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_of_each_run_alone_and_hides_no_overflow(name):
    task = task_of(name)
    parameters = task.stack([0], 2)
    alone = task.evaluate({key: value[:, :1] for key, value in parameters.items()})
    for value in parameters.values():
        value[0, 1] = math.nan
    for both, one in zip(task.evaluate(parameters), alone, strict=True):
        assert both[0, 0] == one[0, 0]
        assert torch.isnan(both[0, 1])


def test_images_of_a_minibatch_have_mean_0_and_variance_1():
    images = torch.cat([batches(task_of("fashion-resnet"), [seed])[0][0] for seed in range(20)])
    assert abs(float(images.mean())) < 0.02
    assert float(images.std()) == pytest.approx(1.0, abs=0.02)


def test_the_noise_is_gaussian_new_in_every_minibatch_and_fixed_in_the_evaluation():
    task = task_of("denoise")
    generator = torch.Generator().manual_seed(0)
    (noisy, images), (other, others) = task.batch(generator), task.batch(generator)
    noise = noisy - images
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.02)
    assert float((noise * (other - others)).mean()) == pytest.approx(0.0, abs=0.01)
    assert 0.0 <= float(images.min()) < float(images.max()) <= 1.0
    parameters = task.stack([0], 1)
    assert [float(found) for found in task.evaluate(parameters)] == [float(f) for f in task.evaluate(parameters)]


def test_the_end_of_a_text_is_held_out():
    codes, _ = encoded(TEXT)
    task = task_of("shakespeare")
    boundary = len(TEXT) - round(HELD_OUT * len(TEXT))
    np.testing.assert_array_equal(torch.cat([task.train, task.test]).numpy(), codes)
    assert len(task.train) == boundary
    train_windows, test_windows = (torch.cat([part for (part,) in parts]) for parts in task.evaluated())
    assert train_windows.shape == test_windows.shape == (200, SIZES["smoke"].shakespeare.context + 1)
    np.testing.assert_array_equal(train_windows[0].numpy(), codes[: train_windows.shape[1]])
    np.testing.assert_array_equal(test_windows[0].numpy(), codes[boundary : boundary + train_windows.shape[1]])


def test_rare_bytes_share_a_code():
    text = b"ab" * 200_000 + "é~".encode()
    codes, count = encoded(text)
    assert count == 3
    assert codes[:2].tolist() == [1, 2]
    assert codes[-3:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("stacked", [False, True])
def test_the_transformer_does_not_look_ahead(stacked):
    torch.manual_seed(0)
    network = Decoder(replace(SIZES["smoke"].python, stacked=stacked), 7).requires_grad_(False)
    codes = torch.randint(7, (3, 32))
    changed = codes.clone()
    changed[:, 20:] = (codes[:, 20:] + 1) % 7
    one, other = network(codes), network(changed)
    torch.testing.assert_close(one[:, :20], other[:, :20])
    assert not torch.allclose(one[:, 20:], other[:, 20:])


def test_both_attentions_are_the_same():
    sizes = SIZES["smoke"].python
    fused, plain = Decoder(replace(sizes, stacked=False), 7), Decoder(sizes, 7)
    fused.load_state_dict(plain.state_dict())
    codes = torch.randint(7, (3, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused(codes), plain(codes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["shakespeare", "python"])
def test_transformers_for_a_gpu_have_30_to_124_million_parameters(name):
    sizes = getattr(SIZES["gpu"], name)
    with torch.device("meta"):
        network = Decoder(sizes, 100)
    assert 30e6 <= sum(value.numel() for value in network.parameters()) <= 124e6
    assert 256 <= sizes.context <= 512


@pytest.mark.parametrize("name", ["fashion-cnn", "fashion-resnet", "denoise"])
def test_networks_for_a_gpu_take_an_update(name):
    sizes = SIZES["gpu"]
    task = make(name, replace(sizes, images=replace(sizes.images, batch=2)), torch.device("cpu"))
    parameters = task.stack([0], 1)
    loss, gradients = task.gradients(parameters, batches(task, [0]))
    assert torch.isfinite(loss).all()
    assert sum(value.numel() for value in parameters.values()) > 1e6
    assert all(torch.isfinite(value).all() and value.any() for value in gradients.values())


def test_several_runs_are_stacked_where_a_suite_trains_several_at_once():
    assert {scale: sizes.python.stacked for scale, sizes in SIZES.items()} == {
        scale: most > 1 for scale, most in RUNS_AT_ONCE.items()
    }


def test_stacked_runs_have_the_gradients_that_fused_attention_gives_each():
    small = SIZES["smoke"].python
    stacked, apart = (Language(TEXT, replace(small, stacked=yes), torch.device("cpu")) for yes in (True, False))
    parameters, batch = stacked.stack([0, 1], 2), batches(stacked, [0, 1])
    losses, gradients = stacked.gradients(parameters, batch)
    for i, j in itertools.product(range(2), repeat=2):
        own = {key: value[i : i + 1, j : j + 1] for key, value in parameters.items()}
        other, same = apart.gradients(own, tuple(part[i : i + 1] for part in batch))
        torch.testing.assert_close(losses[i, j], other[0, 0])
        for key, value in gradients.items():
            torch.testing.assert_close(value[i, j], same[key][0, 0], rtol=1e-3, atol=1e-6)
