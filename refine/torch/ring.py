"""Numbers of many updates that stay on the device, and come to the host in one copy that nobody waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .sharding import all_reduce
from .sums import Sum, double

__all__ = ["Ring"]


class Ring:
    """Two halves of rows: one is filled while the other is on its way to the host.

    Parameters
    ----------
    rows, columns : int
        Rows of a half.
    sums : int
        The first columns, which are added up over all processes when a half is sent; 0: none are.
    device : torch.device
    """

    def __init__(self, rows: int, columns: int, sums: int, device: torch.device) -> None:
        self._halves = torch.zeros(2, rows, columns, dtype=double(device), device=device)
        self._array = self._halves.numpy() if device.type == "cpu" else None
        pinned = device.type == "cuda"
        self._host = torch.zeros(2, rows, columns, dtype=double(device), device="cpu", pin_memory=pinned)
        self._sums = sums
        self._half = 0
        self._sent: Any = None

    def put(self, row: int, column: int, value: Sum) -> None:
        """Write a sum, or several from a column on, into the half that is being filled."""
        to = slice(column, column + value.shape[0]) if value.ndim else column
        if self._array is not None:
            self._array[self._half, row, to] = value
        else:
            self._halves[self._half, row, to].copy_(torch.as_tensor(value).detach(), non_blocking=True)

    def spoil(self, row: int) -> None:
        """Take back what was put into a row."""
        self._halves[self._half, row].fill_(float("nan"))

    def replace(self, rows: slice, by: int, column: int) -> None:
        """Take back what was put into rows; its sum goes into a column of row ``by``, finite where all of it was."""
        half = self._halves[self._half]
        total = half[rows, : column + 1].sum()
        half[rows].zero_()
        half[by, column].add_(total)

    def send(self) -> None:
        """Start to copy the half that is full, and go on with the other one."""
        full = self._halves[self._half]
        if self._sums:
            sums = full[:, : self._sums].contiguous()
            all_reduce(sums)
            full[:, : self._sums] = sums
        self._host[self._half].copy_(full, non_blocking=full.device.type == "cuda")
        if full.device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record(torch.cuda.current_stream(full.device))
        self._half = 1 - self._half
        self._halves[self._half].zero_()

    def arrived(self, *, wait: bool) -> NDArray[np.float64] | None:
        """The half that was sent last, shape (rows, columns); None as long as it is on its way."""
        if self._sent is not None:
            if wait:
                self._sent.synchronize()
            elif not self._sent.query():
                return None
            self._sent = None
        return np.array(self._host[1 - self._half].numpy(), dtype=np.float64)
