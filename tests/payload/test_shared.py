"""Sections of one memory file: what is written is read, without a copy, and never changes under its reader."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path

import pytest

from ipyelastic.payload.shared import read_sections, write_sections


@pytest.mark.parametrize(
    "sections",
    [
        [],
        [b""],
        [b"one"],
        [b"", b"x", b""],
        [b"a" * mmap.PAGESIZE, b"b"],
        [b"a" * (mmap.PAGESIZE - 1), b"b" * (mmap.PAGESIZE + 1), b"c"],
        [bytes([n % 256]) * n for n in range(300)],
    ],
)
def test_what_is_written_is_read(sections: list[bytes]) -> None:
    fd = write_sections(sections)
    try:
        assert [bytes(view) for view in read_sections(fd)] == sections
    finally:
        os.close(fd)


def test_sections_begin_on_pages_and_outlive_the_descriptor() -> None:
    fd = write_sections([b"head", b"x" * 10_000, b"tail"])
    count, *rows = struct.unpack("<7Q", os.pread(fd, 56, 0))
    views = read_sections(fd)
    os.close(fd)
    assert count == 3
    assert [offset % mmap.PAGESIZE for offset in rows[::2]] == [0, 0, 0]
    assert rows[1::2] == [4, 10_000, 4]
    assert bytes(views[2]) == b"tail"


def test_views_of_any_shape_are_taken_as_bytes() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6, dtype="<i4").reshape(2, 3)
    fd = write_sections([memoryview(array), bytearray(b"x"), memoryview(b"abc")[1:]])
    try:
        first, second, third = read_sections(fd)
        assert (bytes(first), bytes(second), bytes(third)) == (array.tobytes(), b"x", b"bc")
    finally:
        os.close(fd)


def test_reader_may_write_and_nobody_else_sees_it() -> None:
    fd = write_sections([b"abc"])
    try:
        mine, other = read_sections(fd)[0], read_sections(fd)[0]
        mine[0] = ord("X")
        assert (bytes(mine), bytes(other), bytes(read_sections(fd)[0])) == (b"Xbc", b"abc", b"abc")
    finally:
        os.close(fd)


def test_file_is_sealed_and_close_on_exec() -> None:
    fd = write_sections([b"abc"])
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE) == (
            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
        assert not os.get_inheritable(fd)
        for change in (lambda: os.ftruncate(fd, 1), lambda: os.pwrite(fd, b"x", 0)):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EPERM
    finally:
        os.close(fd)


@pytest.mark.parametrize("content", [struct.pack("<Q", 10_000) + b"\0" * 100, b"\xff" * 4096])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with open(path, "rb") as file, pytest.raises(ValueError, match="not a file of sections"):
        read_sections(file.fileno())


def test_descriptor_is_closed_when_there_is_no_room() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        with pytest.raises(OSError):
            write_sections([b"x" * (4 << 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    assert len(os.listdir("/proc/self/fd")) == before
