"""Ranks that write thousands of lines a second, and what their log files then hold."""

from __future__ import annotations

import os
import time

__all__ = ["flood", "flood_bytes"]


def _line(rank: int, i: int, total: int, mode: str) -> str:
    loss = f"{1 / (i + 1):.6f}"
    if mode == "plain":
        return f"[rank {rank}] step {i:07d} loss={loss} lr=3.0e-4 tokens/s=12345.6 mem=1.2GiB ok\n"
    if mode == "ansi":
        head = f"\x1b[3{1 + i % 6}m[rank {rank}]\x1b[0m step \x1b[1m{i:07d}\x1b[0m"
        return f"{head} loss=\x1b[38;5;{i % 256}m{loss}\x1b[0m\n"
    return f"\r{i * 100 // total:3d}%|{'#' * (i * 40 // total):<40}| {i}/{total} it/s"


def _end(rank: int, total: int) -> str:
    return f"\nDONE rank {rank} {total}\n"


def flood_bytes(rank: int, total: int, mode: str) -> bytes:
    """Everything that a rank of `flood` writes."""
    return ("".join(_line(rank, i, total, mode) for i in range(total)) + _end(rank, total)).encode()


def flood(rate: int, seconds: float, mode: str) -> None:
    """Write `rate` lines a second for so long; `mode` is `plain`, `ansi` or `bars`."""
    rank = int(os.environ["RANK"])
    total, written, began = int(rate * seconds), 0, time.perf_counter()
    with os.fdopen(os.dup(1), "wb", buffering=1 << 16) as out:
        while written < total:
            due = min(total, int((time.perf_counter() - began) * rate))
            if due <= written:
                time.sleep(0.005)  # paces the writer; nothing waits for it
                continue
            out.write("".join(_line(rank, i, total, mode) for i in range(written, due)).encode())
            out.flush()
            written = due
        out.write(_end(rank, total).encode())
