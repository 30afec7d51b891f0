"""Bytes that several processes read without copying them: sections of one sealed memory file.

    owner: write_sections -> fd -> fork server -> ranks: read_sections      (calls)
    rank:  write_sections -> fd -> value channel -> owner: read_sections    (values)

Runs in: owner and ranks. Layout: count, then (offset, size) of each section, little-endian u64; sections begin on
page boundaries, so that each can be mapped and handed to an array as it stands.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import mmap
import os
import struct
import tempfile
import weakref
from collections.abc import Sequence

__all__ = ["blank_file", "fill", "read_sections", "write_sections"]

_PAGE = mmap.PAGESIZE
_MAP_ABOVE = 1 << 17  # bytes; less is read sooner than it is mapped and its pages are met one by one
_WRITE_AT_ONCE = 1 << 30  # Linux takes at most 2 GiB in one write


def write_sections(sections: Sequence[bytes | memoryview], folder: str | None = None) -> int:
    """Write sections into a new anonymous file and return its descriptor (close-on-exec, sealed, the caller's).

    Args:
        sections: Contiguous buffers, each `(n,)` bytes.
        folder: See `blank_file`.

    Raises:
        OSError: Neither memory nor the folder has room (`ENOSPC`, `ENOMEM`).
    """
    fd = blank_file(folder)
    try:
        fill(fd, sections)
    except BaseException:
        os.close(fd)
        raise
    return fd


def blank_file(folder: str | None = None) -> int:
    """A new anonymous file, to be filled; its descriptor is close-on-exec and the caller's.

    `folder`: where an unlinked file goes when the system refuses memory files; default: the temp folder.
    Raises OSError.
    """
    try:
        return os.memfd_create("ipyelastic", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or a sandbox that refuses it
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.dup(file.fileno())


def fill(fd: int, sections: Sequence[bytes | memoryview]) -> None:
    """Write sections into a file from `blank_file`, and seal it. Raises OSError for want of room."""
    views = [memoryview(section).cast("B") for section in sections]
    table, offset = [], _round_up(8 + 16 * len(views))
    for view in views:
        table.append((offset, view.nbytes))
        offset += _round_up(view.nbytes)
    head = struct.pack("<Q", len(views)) + b"".join(struct.pack("<QQ", *row) for row in table)
    os.ftruncate(fd, max(offset, _PAGE))
    _write_at(fd, memoryview(head), 0)
    for view, (start, _) in zip(views, table, strict=True):
        _write_at(fd, view, start)
    with contextlib.suppress(OSError):  # no memory file
        # Sealed, a private mapping of it can never change under its reader (or end in SIGBUS).
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


def read_sections(fd: int) -> list[memoryview]:
    """Map the file copy-on-write, or read a small one: its sections, writable, each alive as long as somebody holds it.

    The descriptor may be closed afterwards. Raises `ValueError` for a file that `write_sections` did not write.
    """
    size = os.fstat(fd).st_size
    view = _mapped(fd, size) if size > _MAP_ABOVE else memoryview(bytearray(os.pread(fd, size, 0)))
    (count,) = struct.unpack_from("<Q", view, 0)
    if 8 + 16 * count > size:
        raise ValueError("not a file of sections")
    rows = [struct.unpack_from("<QQ", view, 8 + 16 * index) for index in range(count)]
    return [view[offset : offset + nbytes] for offset, nbytes in rows]


def _mapped(fd: int, size: int) -> memoryview:
    """A private mapping that goes with the last view of it. Python's own keeps a descriptor for as long as it lives."""
    libc = _libc()
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    block = (ctypes.c_ubyte * size).from_address(address)
    unmap = weakref.finalize(block, libc.munmap, ctypes.c_void_p(address), ctypes.c_size_t(size))
    unmap.atexit = False  # the process's end does it, and late readers must not find it gone
    return memoryview(block).cast("B")


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    return libc


def _round_up(nbytes: int) -> int:
    return (nbytes + _PAGE - 1) // _PAGE * _PAGE


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < view.nbytes:
        done += os.pwrite(fd, view[done : done + _WRITE_AT_ONCE], offset + done)
