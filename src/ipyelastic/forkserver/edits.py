"""Whether files may have been edited, without looking at each: torch alone has 800, which takes 5 ms a launch.

    handle.ServerProcess > [here] > the kernel's inotify: one read says that nothing was written in their folders

Runs in: owner. On Linux, for folders of file systems whose every change passes through this kernel; elsewhere, and when
the system gives no more watches, the answer is always "maybe", and the files are looked at.
Source: inotify(7), statfs(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable

from ..process.orphans import libc

__all__ = ["Edits"]

_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x0100_0000
_WATCHED = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_LOCAL = frozenset(
    [
        0xEF53,  # ext2 to ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0x794C7630,  # overlayfs: containers
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
    ]
)


class Edits:
    """Hears of every change in the folders of some files, from now on; not of what is written through a memory map, or
    under a name elsewhere that a file was given later.

    Args:
        paths: The files, absolute. Symbolic links, and files of several names, are not heard of.
        tops: Where the search for packages begins (`sys.path`); what is above them is looked at each time.
    """

    def __init__(self, paths: Iterable[str], tops: Iterable[str] = ()) -> None:
        known, folders, self._tops = frozenset(tops), set[str](), dict[str, tuple[int, int] | None]()
        is_plain = sys.platform == "linux"
        for path in paths:
            is_plain = is_plain and _has_one_name(path)
            if not is_plain:
                break
            folder, depth = os.path.dirname(path), 0
            # A package as a whole, or a folder around it, can be put in another's place.
            while folder not in folders:
                folders.add(folder)
                depth += 1
                if folder in known or os.path.dirname(folder) == folder or (depth > 1 and not known):
                    self._tops[folder] = _identity(folder)
                    break
                is_plain = is_plain and not os.path.islink(folder)
                folder = os.path.dirname(folder)
        self.fd = _watching(folders) if is_plain and folders else -1

    @property
    def may_be(self) -> bool:
        """Whether a file may have been edited, replaced or removed since the last time this was asked."""
        if self.fd < 0:
            return True
        # What one of these names may be another folder by now: something above it was moved, a link leads elsewhere.
        found = any(_identity(folder) != before for folder, before in self._tops.items())
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 1 << 16):
                found = True
        return found

    def close(self) -> None:
        """Give the descriptor back; the answer is "maybe" from then on."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _watching(folders: Iterable[str]) -> int:
    """A descriptor that is readable once something has changed in one of these; -1: there is no being sure."""
    try:
        fd = int(libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:  # this C library has no such thing
        return -1
    if fd < 0:
        return -1
    for folder in folders:
        if not _is_local(folder) or libc().inotify_add_watch(fd, os.fsencode(folder), ctypes.c_uint32(_WATCHED)) < 0:
            os.close(fd)
            return -1
    return fd


def _is_local(folder: str) -> bool:
    """Whether nobody but this kernel changes what is there: a server's clients do not hear of each other."""
    found = ctypes.create_string_buffer(256)  # twice as much as any statfs takes; its kind is the first word
    if libc().statfs(os.fsencode(folder), found) != 0:
        return False
    (kind,) = struct.unpack_from("l", found)
    return kind & 0xFFFF_FFFF in _LOCAL


def _has_one_name(path: str) -> bool:
    """Whether it is a file that cannot be written under another name, which is in a folder that we do not hear of."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
