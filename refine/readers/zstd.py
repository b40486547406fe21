"""zstd files. The library takes one that was cut off for a whole one, so the ends of its frames are checked first."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from ..errors import RefineError

__all__ = ["open_zstd"]

_LONGEST_HEADER = 18
_SKIPPABLE, _SKIPPABLE_HEADER = 0x184D2A50, 8
_RLE = 1
_CHECKSUM = 4


def open_zstd(packed: BinaryIO) -> Any:
    """A stream of what is packed; raises EOFError where the end is missing."""
    try:
        import zstandard
    except ImportError:
        raise RefineError("it is compressed with zstd, which needs zstandard: pip install zstandard") from None
    size = os.fstat(packed.fileno()).st_size
    end = 0
    while end < size:
        end = _end_of_frame(packed, end, zstandard)
    if end > size:
        raise EOFError(f"its end is missing after {size:,} bytes")
    packed.seek(0)
    return zstandard.open(packed, "rb")


def _end_of_frame(packed: BinaryIO, at: int, zstandard: Any) -> int:
    """Where a frame ends by the lengths in its headers; beyond the end of the file where that is missing."""
    packed.seek(at)
    head = packed.read(_LONGEST_HEADER)
    if int.from_bytes(head[:4], "little") & ~15 == _SKIPPABLE:
        return at + _SKIPPABLE_HEADER + int.from_bytes(head[4:8], "little")
    frame = zstandard.get_frame_parameters(head)
    at += zstandard.frame_header_size(head)
    last = False
    while not last:
        packed.seek(at)
        header = int.from_bytes(packed.read(3).ljust(3, b"\xff"), "little")
        last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == _RLE else length)
    return at + _CHECKSUM * bool(frame.has_checksum)
