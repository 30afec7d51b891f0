"""Torch's `TailLog`: growing log files copied line by line, each line with its rank's prefix, into one text stream.

    worker's fd 1 and 2 -> log file -> [here] -> console stream, or a filtered file

Runs in: agent, one thread per TailLog whatever the number of its files. Workers never import this.
Other end: output/redirect.py and output/std_redirect.py write these files; output/tail.py makes events of them.
Source: torch 2.13 for names, prefixes and texts (SEEDS section 7). What its tails lost or split stays whole here.
"""

from __future__ import annotations

import concurrent.futures.thread
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TextIO

from .tail import GrowingFile

__all__ = ["tail_logfile", "TailLog"]

logger = logging.getLogger("ipyelastic")

_FASTEST_INTERVAL_S = 0.01
_SLOWEST_INTERVAL_S = 0.03
_SHORTEST_INTERVAL_S = 0.001
_QUIET_TICKS = 20
_LONGEST_LINE = 16 << 20  # bytes
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

LineFilter = Callable[[str], bool]


def _keep_all(line: str) -> bool:
    return True


def tail_logfile(
    header: str,
    file: str,
    dst: TextIO,
    finished: threading.Event,
    interval_sec: float,
    log_line_filter: LineFilter | None = None,
) -> None:
    """Copy `file` line by line to `dst`, in this thread, until `finished` is set and what was there by then is copied.

    Args:
        header: Goes before each line, verbatim.
        file: It may appear later, or never.
        dst: Written in whole lines, under a lock of its own, and flushed.
        finished: Ends it.
        interval_sec: The longest time between two looks, in seconds; never more than 0.03.
        log_line_filter: Called with each line, newline included, header not; None keeps all (torch: none).

    Raises:
        OSError: The file is a folder, or cannot be read.
        Exception: Whatever `dst` or the filter raises.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    copy = _Copy(header, file, _Destination(dst), log_line_filter)
    _follow([copy], finished, interval_sec)
    copy.ended.result()


class TailLog:
    r"""Follow each rank's log file and copy its lines, prefixed, to one stream.

    Args:
        name: Names the ranks: the prefix of rank 0 is `[<name>0]:`.
        log_files: `{local rank: path}`. A file may appear later, or never.
        dst: Where the lines go; None: nowhere, and nothing is followed.
        log_line_prefixes: `{local rank: prefix}`, used verbatim in place of the default.
        interval_sec: The longest time between two looks, in seconds; never more than 0.03.
        log_line_filter: Called in the tail's thread with each line, newline included, prefix not; a false answer
            drops the line. None keeps all.

    `\r` ends a line as `\n` does, so each update of a progress bar is one prefixed line; an update without text is
    dropped. A half line waits for its end, and `stop()` writes it as it stands; whatever is written after one begins on
    a new line. Of a line of more than 16 MiB pieces become lines. Text is UTF-8, anything else in it becomes U+FFFD.

    An error with one file (a folder in its place, a `dst` or filter that raises) ends the copying of that file alone;
    `stop()` logs it.

    Runs in: agent. `start()` and `stop()` may be called from any thread.
    Source: torch 2.13; compared with it in tests/output/test_tail_log.py.
    """

    def __init__(
        self,
        name: str,
        log_files: dict[int, str],
        dst: TextIO | None,
        log_line_prefixes: dict[int, str] | None = None,
        interval_sec: float = 0.1,
        log_line_filter: LineFilter | None = _keep_all,
    ) -> None:
        self._threadpool: ThreadPoolExecutor | None = None
        if log_files and dst:
            self._threadpool = ThreadPoolExecutor(1, thread_name_prefix=f"{type(self).__qualname__}_{name}")
        self._name = name
        self._dst = dst
        self._log_files = log_files
        self._log_line_prefixes = log_line_prefixes
        self._log_line_filter = log_line_filter
        self._interval_sec = interval_sec
        self._finished = threading.Event()
        self._futs: list[Future[None]] = []
        self._stopped = False
        self._changing = threading.Lock()
        self._thread_id = 0

    def start(self) -> TailLog:
        """Begin to follow; a second call changes nothing. Raises `RuntimeError` after `stop()`."""
        with self._changing:
            if self._threadpool is not None and self._dst is not None and not self._futs:
                destination, prefixes = _Destination(self._dst), self._log_line_prefixes or {}
                copies = [
                    _Copy(prefixes.get(rank, f"[{self._name}{rank}]:"), file, destination, self._log_line_filter)
                    for rank, file in self._log_files.items()
                ]
                self._threadpool.submit(self._run, copies)
                self._futs = [copy.ended for copy in copies]
        return self

    def stop(self) -> None:
        """Copy what is there by now to its end, half lines too; end the thread; log what went wrong with each file.

        Any number of calls, before `start()` too, do no harm. A `dst` that calls it only asks: its thread cannot wait
        for itself.
        """
        self._finished.set()
        if self._thread_id == threading.get_ident():
            return
        with self._changing:
            for rank, future in zip(self._log_files, self._futs):  # noqa: B905  # not started: no futures
                error = future.exception()
                if error is not None:
                    what = type(error).__qualname__
                    logger.exception("error in log tailer for %s%s. %s", self._name, rank, what, exc_info=error)
            self._futs = []
            if self._threadpool is not None:
                self._threadpool.shutdown(wait=True)
            self._stopped = True

    def stopped(self) -> bool:
        """Whether a `stop()` has done its work."""
        return self._stopped

    def _run(self, copies: Sequence[_Copy]) -> None:
        self._thread_id = threading.get_ident()
        try:
            _follow(copies, self._finished, self._interval_sec)
        finally:
            self._thread_id = 0  # the number is given to another thread some day


def _follow(copies: Sequence[_Copy], finished: threading.Event, interval_sec: float) -> None:
    """Copy all files until `finished`, or until all have failed. Each copy's `ended` is settled afterwards."""
    longest = max(_SHORTEST_INTERVAL_S, min(interval_sec, _SLOWEST_INTERVAL_S))
    shortest = min(longest, _FASTEST_INTERVAL_S)
    interval_s, quiet_ticks = shortest, 0
    try:
        while not finished.wait(interval_s) and not _is_interpreter_ending():
            has_read = [copy.attempt(copy.read) for copy in copies]
            if all(copy.ended.done() for copy in copies):
                return
            quiet_ticks = 0 if any(has_read) else quiet_ticks + 1
            interval_s = longest if quiet_ticks > _QUIET_TICKS else shortest
        # Read once more after the last rank's end: it can write its last line, or its whole file,
        # between our latest read and its death. Half lines come last, where they split nobody's.
        for copy in copies:
            copy.attempt(copy.read_to_end)
        for copy in copies:
            copy.attempt(copy.write_half)
    finally:
        for copy in copies:
            copy.end()


def _is_interpreter_ending() -> bool:
    # A pool's threads are waited for at the interpreter's exit: without this, a TailLog that nobody stopped (torch's
    # too) keeps the process for ever. There is no public word for it.
    return bool(getattr(concurrent.futures.thread, "_shutdown", False))


class _Copy:
    """One file on its way to the destination. Used by one thread."""

    def __init__(self, header: str, path: str, destination: _Destination, line_filter: LineFilter | None) -> None:
        self._header = header
        self._file = GrowingFile(path, longest_line_bytes=_LONGEST_LINE)
        self._destination = destination
        self._filter = line_filter
        self._is_after_return = False
        self.ended: Future[None] = Future()
        """Settled when nothing more will be copied, with what went wrong."""

    def attempt(self, step: Callable[[], bool]) -> bool:
        """Take one step unless an earlier one failed. What it raises is kept in `ended`."""
        if self.ended.done():
            return False
        try:
            return step()
        except BaseException as error:  # stop() logs it, or tail_logfile raises it; the other files go on
            self._file.close()
            self.ended.set_exception(error)
            return False

    def read(self) -> bool:
        """Copy at most one chunk's worth; whether there was anything new."""
        if not self._file.open():
            return False
        text = self._file.read()
        if text is not None:
            self._hand_on(text if text.endswith(("\n", "\r")) else text + "\n")
        return self._file.has_read

    def read_to_end(self) -> bool:
        """Copy to the end as it is now: a left-over process that writes for ever must not keep us here."""
        if not self._file.open():
            return False
        end = self._file.size()
        is_cut_short = end < self._file.offset
        while is_cut_short or self._file.offset < end:
            is_cut_short = False
            if not self.read():
                break
        return True

    def write_half(self) -> bool:
        """Hand on a last line that nobody ended."""
        self._hand_on(self._file.take_half())
        return True

    def end(self) -> None:
        """Close the file and settle `ended`."""
        self._file.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def _hand_on(self, text: str) -> None:
        kept: list[str] = []
        try:
            for line in self._lines(text):
                if self._filter is None or self._filter(line):
                    kept.append(self._header + line)
        finally:  # the lines before one on which the filter fails
            if kept:
                self._destination.write("".join(kept))

    def _lines(self, text: str) -> Iterator[str]:
        """The lines of a text, ended by a newline each, the last one perhaps not."""
        if self._is_after_return and text.startswith("\n"):  # the line was handed on at its carriage return
            text = text[1:]
        self._is_after_return = False
        for line in _LINE.findall(text):
            if line == "\r":
                continue  # the start of a progress bar's first update
            if line.endswith("\r"):
                self._is_after_return = True
                yield line[:-1] + "\n"
            else:
                self._is_after_return = False
                yield line[:-2] + "\n" if line.endswith("\r\n") else line


class _Destination:
    """Where the lines of one TailLog go. Writes of several to one stream follow each other, whole."""

    def __init__(self, dst: TextIO) -> None:
        self._dst = dst
        self._lock = _lock_of(dst)
        self._is_mid_line = False

    def write(self, text: str) -> None:
        """Write and flush, on a new line if the former write ended in the middle of one."""
        with self._lock:
            if self._is_mid_line:
                text = "\n" + text
            try:
                self._dst.write(text)
            except UnicodeEncodeError as error:  # a terminal that is not UTF-8
                self._dst.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            self._is_mid_line = not text.endswith("\n")
            flush = getattr(self._dst, "flush", None)
            if flush is not None:
                flush()


_locks: weakref.WeakKeyDictionary[TextIO, threading.Lock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(dst: TextIO) -> threading.Lock:
    """The one lock of a stream."""
    with _locks_lock:
        try:
            return _locks.setdefault(dst, threading.Lock())
        except TypeError:  # of a class that cannot be referred to weakly, or hashed
            return threading.Lock()
