"""Small PNG files without a library."""

from __future__ import annotations

import struct
import zlib

__all__ = ["png"]


def png(width: int, height: int, level: int = 9, *, grey: int = 128) -> bytes:
    """An image of one grey; with `level` 0 it is stored, so about `width * height` bytes large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([grey]) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(rows, level)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
