"""Follow every rank's growing log files and hand on what was written.

    worker's fd 1 and 2 -> log file -> [here] -> OutputChunk -> sink (view/board, view/text, the panel)

Runs in: owner, one thread for all files. Workers never import this.
Other end: output/redirect.py has the ranks write these files; change the two together.
output/tail_log.py reads with the same GrowingFile and hands on text instead of events.
"""

from __future__ import annotations

import codecs
import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..terms.events import OutputChunk, Sink, Stream

__all__ = ["Tail", "TailedFile", "GrowingFile"]

_log = logging.getLogger("ipyelastic")

_LONGEST_LINE = 64 << 10
_SLOWEST_INTERVAL_S = 0.05
_MUCH = 8 << 10  # characters of one tick
_FLOOD_INTERVAL_S = 0.03
_QUIET_TICKS = 20


@dataclass(frozen=True)
class TailedFile:
    """One log file: whose it is and where. It may not exist yet."""

    rank: int
    stream: Stream
    path: str


class Tail:
    """Follows log files from their first byte, in one daemon thread, until `stop()`.

    Args:
        files: What to follow. A file may appear later; one that is cut short is read from its start again.
        sink: Takes OutputChunk events, called from the tail's thread. One that raises is logged once and stays in use.
        interval_s: Time between two looks at the files. It grows to 0.05 s while all of them are quiet, and to 0.03 s
            while they hold much, yet less than `chunk_bytes`, each time.
        chunk_bytes: The most that is read from one file in one tick.
        behind_bytes: Further behind than this, the reader skips to a line start about `chunk_bytes` before the end;
            the next chunk says how much was left out.
        is_complete: Never skip.
        each_tick: Called from the tail's thread after each look at the files until `stop()`; must not raise.

    A chunk ends at a newline or a carriage return. The rest waits for its end; of a line of more than 64 KiB
    pieces are handed on. Text is UTF-8, anything else in it becomes U+FFFD.

    Raises:
        ValueError: `interval_s`, `chunk_bytes` or `behind_bytes` is not positive.

    Runs in: owner. `start()` and `stop()` may be called from any thread.
    """

    def __init__(
        self,
        files: Sequence[TailedFile],
        sink: Sink,
        *,
        interval_s: float = 0.01,
        chunk_bytes: int = 256 << 10,
        behind_bytes: int = 8 << 20,
        is_complete: bool = False,
        each_tick: Callable[[], None] | None = None,
    ) -> None:
        for name, value in (("interval_s", interval_s), ("chunk_bytes", chunk_bytes), ("behind_bytes", behind_bytes)):
            if value <= 0:
                raise ValueError(f"{name}={value!r}: expected a positive number")
        self._followers = [_Follower(file, chunk_bytes, None if is_complete else behind_bytes) for file in files]
        self._sink = sink
        self._chunk_bytes = chunk_bytes
        self._each_tick = each_tick
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_failed_sink = False

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to follow. Raises `RuntimeError` the second time."""
        with self._starting:
            if self._thread is not None:
                raise RuntimeError("this Tail was started before; make a new one")
            thread = threading.Thread(target=self._follow, name="ipyelastic-tail", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """Read what is there by now to its end, hand on a last half line too, close all files, end the thread.

        Returns when the sink has had everything. Any number of calls, before `start()` too, do no harm. A sink
        that calls it only asks: its thread cannot wait for itself.
        """
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _follow(self) -> None:
        try:
            interval_s, quiet_ticks = self._interval_s, 0
            while not self._stopping.wait(interval_s):
                has_read, size = self._tick()
                if self._each_tick is not None:
                    self._each_tick()
                if has_read:
                    # Of a flood larger pieces: nobody reads it line by line, and each piece has its price.
                    is_flood = _MUCH < size < self._chunk_bytes
                    interval_s, quiet_ticks = max(self._interval_s, _FLOOD_INTERVAL_S * is_flood), 0
                    continue
                quiet_ticks += 1
                if quiet_ticks > _QUIET_TICKS:
                    interval_s = min(interval_s * 1.5, max(self._interval_s, _SLOWEST_INTERVAL_S))
            # Read once more after the last rank's end: it can write its last line
            # between our latest read and its death.
            for follower in self._followers:
                self._finish(follower)
        finally:
            for follower in self._followers:
                follower.close()

    def _tick(self) -> tuple[bool, int]:
        """Whether there was anything, and how many characters were handed on."""
        has_read, size = False, 0
        for follower in self._followers:
            chunk = follower.read()
            has_read = has_read or follower.has_read
            if chunk is not None:
                size += len(chunk.text)
                self._hand_on(chunk)
        return has_read, size

    def _finish(self, follower: _Follower) -> None:
        # To the end as it is now: a left-over process that writes for ever must not keep us here.
        end = follower.size()
        is_cut_short = end < follower.offset
        while is_cut_short or follower.offset < end:
            is_cut_short = False
            chunk = follower.read()
            if chunk is not None:
                self._hand_on(chunk)
            if not follower.has_read:
                break
        chunk = follower.last()
        if chunk is not None:
            self._hand_on(chunk)

    def _hand_on(self, chunk: OutputChunk) -> None:
        try:
            self._sink(chunk)
        except Exception:  # whoever reads the log sees it; the other ranks' output goes on
            if not self._has_failed_sink:
                self._has_failed_sink = True
                _log.exception("a sink failed on the output of rank %d; this is said once", chunk.rank)


class GrowingFile:
    """One text file that somebody else writes: how far it was read, and the half line that waits for its end.

    Args:
        path: It may not exist yet.
        chunk_bytes: The most that one `read()` takes.
        behind_bytes: Further behind than this, `read()` skips to a line start; None: never.
        longest_line_bytes: Of a line longer than this, pieces are handed on.

    Shared with output/tail_log.py. Not thread-safe: used by the thread that reads.
    """

    def __init__(
        self,
        path: str,
        chunk_bytes: int = 256 << 10,
        behind_bytes: int | None = None,
        longest_line_bytes: int = _LONGEST_LINE,
    ) -> None:
        self.path = path
        self._chunk_bytes = chunk_bytes
        self._behind_bytes = behind_bytes
        self._longest_line_bytes = longest_line_bytes
        self._fd = -1
        self._half = b""
        self.offset = 0
        self.skipped_bytes = 0
        """Left out before what is read next; the reader says it and sets it back to 0."""
        self.has_read = False
        """Whether the latest `read()` found anything new, handed on or kept."""

    def open(self) -> bool:
        """Open it unless it is open; False while it does not exist. Raises any other `OSError`."""
        if self._fd >= 0:
            return True
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # the rank has not begun
            return False
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # some file systems say its size is 0: no read would tell
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        self._fd = fd
        return True

    def read(self) -> str | None:
        """Read at most one chunk's worth of the open file; None when no line ended in it. Raises `OSError`."""
        self.has_read = False
        size = os.fstat(self._fd).st_size
        if size == self.offset:
            return None
        if size < self.offset:
            return self._start_over()
        if self._behind_bytes is not None and size - self.offset > self._behind_bytes:
            self._skip_towards(size)
        # Not simply a chunk: room for that is asked of the system, and given back, each time.
        data = os.pread(self._fd, min(self._chunk_bytes, size - self.offset), self.offset)
        self.offset += len(data)
        self.has_read = bool(data)
        return self._take_lines(data)

    def size(self) -> int:
        """The open file's size in bytes. Raises `OSError`."""
        return os.fstat(self._fd).st_size

    def take_half(self) -> str:
        """The half line that waited; it waits no more."""
        text, self._half = self._half.decode("utf-8", "replace"), b""
        return text

    def close(self) -> None:
        """Close it, open or not."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_lines(self, data: bytes) -> str | None:
        # No byte of a longer UTF-8 sequence looks like a line end, so bytes are cut here and decoded below.
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            ready, self._half = self._half + data[:end], data[end:]
            return ready.decode("utf-8", "replace")
        self._half += data
        if len(self._half) <= self._longest_line_bytes:
            return None
        text, used = codecs.utf_8_decode(self._half, "replace", False)
        self._half = self._half[used:]
        return text

    def _start_over(self) -> str | None:
        """The file was cut short: what waited for its end has none now, and the next read is from the start."""
        self.offset, self.has_read = 0, True
        text = self.take_half()
        return text + "\n" if text else None

    def _skip_towards(self, size: int) -> None:
        """Move to the first line start within the last chunk's worth of bytes; count what is left out."""
        target = size - self._chunk_bytes
        if target <= self.offset:
            return
        data = os.pread(self._fd, self._chunk_bytes, target - 1)  # from -1: the target may be a line start itself
        starts = [index for index in (data.find(b"\n"), data.find(b"\r")) if index >= 0]
        if starts:
            start = min(starts) + 1
            if data[start - 1 : start + 1] == b"\r\n":
                start += 1
        else:
            start = 1
            while start < min(5, len(data)) and data[start] & 0xC0 == 0x80:  # not into the middle of a character
                start += 1
        new_offset = target - 1 + start
        self.skipped_bytes += new_offset - self.offset + len(self._half)
        self._half = b""
        self.offset = new_offset


class _Follower:
    """One rank's file as chunks; what goes wrong with it is said in the log, once. Used by the tail's thread only."""

    def __init__(self, file: TailedFile, chunk_bytes: int, behind_bytes: int | None) -> None:
        self._file = file
        self._growing = GrowingFile(file.path, chunk_bytes, behind_bytes)
        self._is_given_up = False
        self._has_warned = False
        self.has_read = False
        """Whether the latest `read()` found anything new, handed on or kept."""

    @property
    def offset(self) -> int:
        """How far it was read, in bytes."""
        return self._growing.offset

    def read(self) -> OutputChunk | None:
        """Read at most one chunk's worth; None when no line ended in it."""
        self.has_read = False
        if not self._open():
            return None
        try:
            text = self._growing.read()
            self.has_read = self._growing.has_read
        except OSError as error:  # a network file system that went away
            self._is_given_up = True
            self.close()
            _log.warning("%s cannot be read any more: %s", self._file.path, error)
            return None
        return None if text is None else self._chunk(text)

    def size(self) -> int:
        """The file's size in bytes, 0 when it is not there (any more)."""
        if not self._open():
            return 0
        try:
            return self._growing.size()
        except OSError:  # read() will meet it as well, and says it
            return self.offset + 1

    def last(self) -> OutputChunk | None:
        """The half line that was kept, and what was skipped and not yet said."""
        text = self._growing.take_half()
        return self._chunk(text) if text or self._growing.skipped_bytes else None

    def close(self) -> None:
        self._growing.close()

    def _open(self) -> bool:
        if self._is_given_up:
            return False
        try:
            return self._growing.open()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s cannot be followed: %s", self._file.path, error)
            return False

    def _chunk(self, text: str) -> OutputChunk:
        skipped_bytes, self._growing.skipped_bytes = self._growing.skipped_bytes, 0
        file = self._file
        return OutputChunk(file.rank, file.stream, text, file.path, skipped_bytes)
