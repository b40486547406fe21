"""Small networks, and logs as plain rows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(20, 80), nn.Tanh(), nn.Linear(80, 20))


@pytest.fixture
def step(network):
    """Gradients of one update on random data."""

    def backward(scale=1.0):
        x = torch.randn(8, 20)
        for parameter in network.parameters():
            parameter.grad = None
        loss = (network(x) - x).square().mean()
        (loss * scale).backward()
        return loss

    return backward


@pytest.fixture
def rows():
    """Header and rows of a JSONL log."""

    def read(path):
        header, *found = map(json.loads, path.read_text().splitlines())
        return header, found

    return read
