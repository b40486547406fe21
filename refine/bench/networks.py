"""Small networks on images and text; `refine.bench.deep` says how large."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from .deep import Images, Text

__all__ = ["CLASSES", "CNN", "MLP", "Autoencoder", "Decoder", "ResNet"]

SIDE, CLASSES = 28, 10
SPREAD = 0.55
"""Times 1 / sqrt(width): standard deviation of a transformer's first weights, 0.02 at the width of GPT-2."""


class CNN(nn.Module):
    """3 x 3 convolutions with stride 2 and ReLU, then a linear layer."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = itertools.pairwise((1, *channels))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        side = math.ceil(SIDE / 2 ** len(channels))
        self.head = nn.Linear(channels[-1] * side**2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        for convolution in self.convolutions:
            images = F.relu(convolution(images))
        found: Tensor = self.head(images.flatten(1))
        return found


class MLP(nn.Module):
    """One hidden layer with ReLU on images of half the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear((SIDE // 2) ** 2, width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.head(F.relu(self.hidden(F.avg_pool2d(images, 2).flatten(1))))
        return found


class Residual(nn.Module):
    """``x + conv(relu(norm(conv(relu(norm(x))))))`` (arXiv:1603.05027); the first convolution may halve the image."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, n) for n in (before, after))
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(before, after, 1, stride=stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Of the same size, or halved."""
        inner = self.first(F.relu(self.norms[0](x)))
        found: Tensor = self.skip(x) + self.second(F.relu(self.norms[1](inner)))
        return found


class ResNet(nn.Module):
    """Residual stages, normalised over each image: no batch statistics; a stage with other channels halves the side."""

    def __init__(self, sizes: Images) -> None:
        super().__init__()
        channels, patch = sizes.resnet, sizes.patch
        self.stem = nn.Conv2d(1, channels[0], patch, stride=patch, bias=False)
        side = SIDE // patch
        stages: list[nn.Module] = []
        for before, after in itertools.pairwise((channels[0], *channels)):
            stride = 1 if before == after else 2
            side = math.ceil(side / stride)
            stages.append(Residual(before, after, stride))
            stages += [Residual(after, after, 1) for _ in range(sizes.blocks - 1)]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(1, channels[-1])
        self.head = nn.Linear(channels[-1] * side**2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.head(F.relu(self.norm(self.stages(self.stem(images)))).flatten(1))
        return found


class Autoencoder(nn.Module):
    """Linear layers with GELU from the pixels to the narrowest and back."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (SIDE**2, *widths, *widths[-2::-1], SIDE**2)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same size."""
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        found: Tensor = self.layers[-1](x)
        return found


class Block(nn.Module):
    """Causal attention, then two linear layers, each on normalised input and added."""

    def __init__(self, sizes: Text) -> None:
        super().__init__()
        width, self.heads = sizes.width, sizes.heads
        self.fused = not sizes.stacked
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(layer.weight, std=SPREAD / math.sqrt(width))
            nn.init.zeros_(layer.bias)
        for layer in (self.out, self.down):
            layer.weight.data /= math.sqrt(2 * sizes.layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Of the same shape, (windows, context, width)."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
            mixed = torch.softmax(scores, dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        found: Tensor = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return found


class Decoder(nn.Module):
    """Transformer of GPT-2's shape: normalised inputs, learned positions, the head is the embedding."""

    def __init__(self, sizes: Text, codes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, sizes.width)
        self.positions = nn.Parameter(torch.empty(sizes.context, sizes.width))
        for table in (self.embedding.weight, self.positions):
            nn.init.normal_(table, std=SPREAD / math.sqrt(sizes.width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        mask = torch.full((sizes.context, sizes.context), -math.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits of the next code, (windows, context, codes)."""
        x = self.embedding(codes) + self.positions
        for block in self.blocks:
            x = block(x, self.mask)
        return F.linear(self.norm(x), self.embedding.weight)
