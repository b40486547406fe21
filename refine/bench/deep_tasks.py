"""The deep problems as tasks: what is drawn, what is lost, and what is held out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .convex import mislabelled
from .data import datasets
from .deep import FASHION, PYTHON, SHAKESPEARE, Images, Sizes, Text
from .networks import CLASSES, CNN, MLP, Autoencoder, Decoder, ResNet
from .noise import STEADY, Noise
from .task import NetworkTask, Parameters, Task

__all__ = ["Classification", "Denoising", "Language", "make"]

HELD_OUT = 0.05
"""Share of a text."""
NOISE = 0.5
"""Standard deviation of the noise, of pixels in [0, 1]."""
RARE = 1e-5
"""Bytes rarer than this share one code."""
IMAGES, WINDOWS, CHUNKS = 2000, 200, 4
"""Of an evaluation, and into how many minibatches they are split."""

Batches = list[tuple[Tensor, ...]]


class _Deep(NetworkTask):
    """A network by its seed, in bf16 on a GPU.

    Parameters
    ----------
    build : callable
        Makes the network at random.
    sizes : Images or Text
    device : torch device
    noise : Noise
        What changes during a run.
    """

    def __init__(
        self, build: Callable[[], nn.Module], sizes: Images | Text, device: torch.device, noise: Noise = STEADY
    ) -> None:
        super().__init__(build().to(device).requires_grad_(False))
        self.build, self.sizes, self.device, self.noise = build, sizes, device, noise

    @abstractmethod
    def evaluated(self) -> tuple[Batches, Batches]:
        """Fixed minibatches of the training and of the held-out data."""

    def start(self, seed: int) -> Parameters:
        """Drawn on the CPU, so that it is the same on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = self.build()
        return {name: value.detach().to(self.device) for name, value in network.named_parameters()}

    def evaluate(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Mean losses on a fixed part of the training data and of the held-out data."""
        train, test = (self.mean_loss(parameters, batches) for batches in self.evaluated())
        return train, test

    def _loss(self, parameters: Parameters, *batch: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            return super()._loss(parameters, *batch)


class Classification(_Deep):
    """Cross-entropy of images of ten classes."""

    def __init__(
        self,
        data: datasets.Images,
        build: Callable[[], nn.Module],
        sizes: Images,
        device: torch.device,
        noise: Noise = STEADY,
    ) -> None:
        super().__init__(build, sizes, device, noise)
        train, train_labels, test, test_labels = (torch.tensor(part, device=device) for part in data)
        self.train, self.test = (train, train_labels), (test, test_labels)
        self.mean, self.std = (float(found) / 255.0 for found in (data[0].mean(), data[0].std()))

    def loss(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return F.cross_entropy(network(images), labels)

    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[Tensor, ...]:
        """Images with mean 0 and variance 1 over the training data, and their classes."""
        size, wrong = self.noise.size(done, self.sizes.batch), self.noise.share_wrong(done)
        images, labels = self._images(self.train, _drawn(len(self.train[0]), size, generator))
        return images, mislabelled(labels, wrong, CLASSES, generator)

    def evaluated(self) -> tuple[Batches, Batches]:
        """2,000 images each."""
        train, test = ([self._images(p, at) for at in _evenly(len(p[0]), IMAGES)] for p in (self.train, self.test))
        return train, test

    def _images(self, part: tuple[Tensor, Tensor], at: Tensor) -> tuple[Tensor, ...]:
        images, labels = (values[at.to(self.device)] for values in part)
        return (images[:, None] / 255.0 - self.mean) / self.std, labels


class Denoising(_Deep):
    """Mean squared error of images, pixels in [0, 1], that the network makes of them with Gaussian noise added."""

    def __init__(
        self, data: datasets.Images, build: Callable[[], nn.Module], sizes: Images, device: torch.device
    ) -> None:
        super().__init__(build, sizes, device)
        self.train, self.test = (torch.tensor(data[i], device=device).flatten(1) for i in (0, 2))

    def loss(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Mean squared error; `mse_loss` fails under vmap."""
        noisy, images = batch
        error: Tensor = network(noisy) - images
        return error.square().mean()

    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[Tensor, ...]:
        """Images with noise, and without."""
        return self._images(self.train, _drawn(len(self.train), self.sizes.batch, generator), generator)

    def evaluated(self) -> tuple[Batches, Batches]:
        """2,000 images each, always with the same noise."""
        generator = torch.Generator().manual_seed(0)
        parts = ((part, _evenly(len(part), IMAGES)) for part in (self.train, self.test))
        train, test = ([self._images(part, at, generator) for at in places] for part, places in parts)
        return train, test

    def _images(self, part: Tensor, at: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        images = part[at.to(self.device)] / 255.0
        return images + NOISE * torch.randn(images.shape, generator=generator).to(self.device), images


class Language(_Deep):
    """Cross-entropy of the next byte of a text; its last part is held out.

    With a second text, on which training ends, that one is evaluated.
    """

    def __init__(
        self, text: bytes, sizes: Text, device: torch.device, noise: Noise = STEADY, second: bytes = b""
    ) -> None:
        codes, count = encoded(text + second)
        super().__init__(lambda: Decoder(sizes, count), sizes, device, noise)
        known = torch.tensor(codes, device=device)
        self.texts = [known[: len(text)], known[len(text) :]] if second else [known]
        held_out = round(HELD_OUT * len(self.texts[-1]))
        self.train, self.test = self.texts[-1][:-held_out], self.texts[-1][-held_out:]
        self.texts[-1] = self.train
        self.window = torch.arange(sizes.context + 1)

    def loss(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Mean cross-entropy of every code but the first."""
        (codes,) = batch
        return F.cross_entropy(network(codes[:, :-1]).flatten(0, 1), codes[:, 1:].flatten())

    def batch(self, generator: torch.Generator, done: float = 0.0) -> tuple[Tensor, ...]:
        """Windows of codes, one longer than the context."""
        text, size = self.texts[self.noise.text(done)], self.noise.size(done, self.sizes.batch)
        return self._windows(text, _drawn(self._places(text), size, generator))

    def evaluated(self) -> tuple[Batches, Batches]:
        """200 windows each."""
        parts = (self.train, self.test)
        train, test = ([self._windows(p, at) for at in _evenly(self._places(p), WINDOWS)] for p in parts)
        return train, test

    def _places(self, part: Tensor) -> int:
        return len(part) - len(self.window) + 1

    def _windows(self, part: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        return (part[(at[:, None] + self.window).to(self.device)].long(),)


def encoded(text: bytes) -> tuple[npt.NDArray[np.uint8], int]:
    """A code for each byte that occurs, and how many there are; all rare bytes share the first.

    Examples
    --------
    >>> encoded(b"abba")
    (array([1, 2, 2, 1], dtype=uint8), 3)
    """
    values = np.frombuffer(text, dtype=np.uint8)
    frequent = np.bincount(values, minlength=256) > RARE * len(values)
    codes = np.where(frequent, np.cumsum(frequent), 0)
    return codes.astype(np.uint8)[values], int(codes.max()) + 1


def _drawn(most: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(most, (count,), generator=generator)


def _evenly(most: int, count: int) -> list[Tensor]:
    """Places at equal distances, in equal chunks."""
    chunk = min(most, count // CHUNKS)
    count = min(most, count) // chunk * chunk
    return [torch.arange(i, i + chunk) * most // count for i in range(0, count, chunk)]


def make(name: str, sizes: Sizes, device: torch.device, noise: Noise = STEADY) -> Task:
    """Task of a problem; loads its data."""
    images = sizes.images
    match name:
        case "fashion-mlp":
            return Classification(datasets.load_images(FASHION), lambda: MLP(images.mlp), images, device, noise)
        case "fashion-cnn":
            return Classification(datasets.load_images(FASHION), lambda: CNN(images.cnn), images, device)
        case "fashion-resnet":
            return Classification(datasets.load_images(FASHION), lambda: ResNet(images), images, device)
        case "denoise":
            return Denoising(datasets.load_images(FASHION), lambda: Autoencoder(images.autoencoder), images, device)
        case "shakespeare":
            own, other = SHAKESPEARE, PYTHON
        case _:
            own, other = PYTHON, SHAKESPEARE
    if len(noise.source) > 1:
        return Language(datasets.load_text(other), sizes.shakespeare, device, noise, datasets.load_text(own))
    return Language(
        datasets.load_text(own), sizes.shakespeare if name == "shakespeare" else sizes.python, device, noise
    )
