"""What ranks write, on this process's own stdout and stderr: whole lines with their rank in front, in order.

    output/tail's chunks -> [here] PrefixedText, one per stream -> a queue -> one writing thread -> fd 1 and fd 2

Runs in: owner. Events come from the run's threads. A reader that is slower than the ranks (`| less`) holds up the
reading of the log files, never a rank, and never a signal: the main thread writes nothing here.
Other end: engines/showing.py prints the lines of `launch()`.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO

from ..launcher.options import RunOptions
from ..launcher.torchrun import JobOptions
from ..terms.events import Event, OutputChunk, RunRestarted, Stream
from ..terms.std import Std
from ..view.text import Prefix, PrefixedText

__all__ = ["Console"]

_ROOM = 8 << 20  # bytes that wait for a slow reader, before the reading of log files waits too
_PIECE = 1 << 16
_FLAGS: Mapping[Stream, Std] = {"stdout": Std.OUT, "stderr": Std.ERR}


class Console:
    """A sink that prints each rank's stdout to stdout and its stderr, notes and restarts to stderr.

    Args:
        options, job: Which ranks and streams are shown, and which lines are copied into `filtered_*.log`.
        prefix: What stands before a rank's lines.
        on_closed: Called once, in the writing thread, when whoever read stdout has gone.

    Every line comes, and those of one stream keep their order. `close` shows the rest.
    """

    def __init__(self, options: RunOptions, job: JobOptions, prefix: Prefix, on_closed: Callable[[], object]) -> None:
        self._job, self._on_closed = job, on_closed
        self._texts = {stream: PrefixedText(ranks=options.shown, is_live=False, prefix=prefix) for stream in _FLAGS}
        needles: dict[Stream, tuple[str, ...]] = {"stdout": job.stdout_needles, "stderr": job.stderr_needles}
        self._copies = {stream: _Copy(stream, words) for stream, words in needles.items() if words}
        self._fds = {"stdout": _fd(sys.stdout), "stderr": _fd(sys.stderr)}
        self._encodings = {"stdout": _encoding(sys.stdout), "stderr": _encoding(sys.stderr)}
        self._order = threading.Lock()  # text is taken and queued in one go, or two threads' lines change places
        self._news = threading.Condition()
        self._waiting: deque[tuple[Stream, bytes]] = deque()
        self._size = 0
        self._is_closing = False
        self._broken: set[Stream] = set()
        self._thread = threading.Thread(target=self._write_all, name="ipyelastic-console", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Queue what this event completes."""
        if isinstance(event, OutputChunk):
            if not self._is_shown(event):
                return
            self._wait_for_room()
        with self._order:
            if isinstance(event, OutputChunk):
                self._texts[event.stream](event)
                self._take(event.stream, event.path)
                return
            if isinstance(event, RunRestarted):
                self._queue("stdout", self._texts["stdout"].close())
            self._texts["stderr"](event)
            self._take("stderr")

    def say(self, line: str) -> None:
        """Print a line of our own on stderr: at once, whoever does not read stdout, unless stderr is full too."""
        fd = self._fds["stderr"]
        data = f"{line}\n".encode(self._encodings["stderr"], "backslashreplace")
        if fd >= 0 and len(data) <= select.PIPE_BUF and select.select([], [fd], [], 0)[1]:
            with contextlib.suppress(OSError):  # nobody is there to read it
                os.write(fd, data)
        else:
            self._queue("stderr", f"{line}\n")

    def close(self, on_done: Callable[[], object]) -> None:
        """Queue the half lines too; `on_done` is called, in the writing thread, when everything is written."""
        with self._order:
            for stream, text in self._texts.items():
                self._put(stream, text.close())
        with self._news:
            self._is_closing, self._on_done = True, on_done
            self._news.notify_all()

    def abandon(self) -> None:
        """Nobody waits for the rest any more."""
        with self._news:
            self._broken.update(_FLAGS)
            self._news.notify_all()

    def _is_shown(self, chunk: OutputChunk) -> bool:
        def of_rank(flags: Std | Mapping[int, Std]) -> Std:
            return flags if isinstance(flags, Std) else flags.get(chunk.rank, Std.NONE)

        return not (of_rank(self._job.redirects) & ~of_rank(self._job.tee) & _FLAGS[chunk.stream])

    def _take(self, stream: Stream, path: str = "") -> None:
        self._put(stream, self._texts[stream].take(), path)

    def _put(self, stream: Stream, text: str, path: str = "") -> None:
        if text and stream in self._copies:
            self._copies[stream].take(text, path)
        self._queue(stream, text)

    # ---------------------------------------------------------------------------------------------------------- writing

    def _queue(self, stream: Stream, text: str) -> None:
        if text:
            data = text.encode(self._encodings[stream], "backslashreplace")
            with self._news:
                self._waiting.append((stream, data))
                self._size += len(data)
                self._news.notify_all()

    def _wait_for_room(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._size < _ROOM or len(self._broken) == len(_FLAGS))

    def _write_all(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    break
                stream, data = self._waiting.popleft()
            self._write(stream, data)
            with self._news:
                self._size -= len(data)
                self._news.notify_all()
        for copy in self._copies.values():
            copy.close()
        self._on_done()

    def _write(self, stream: Stream, data: bytes) -> None:
        view, fd = memoryview(data), self._fds[stream]
        while view and fd >= 0 and stream not in self._broken:
            try:
                view = view[os.write(fd, view[:_PIECE]) :]
            except BlockingIOError:  # somebody made the terminal non-blocking
                select.select([], [fd], [], 1.0)
            except OSError as error:
                self._broken.add(stream)
                if stream == "stdout":
                    if isinstance(error, BrokenPipeError):
                        self._on_closed()
                    else:
                        self.say(f"ipyelastic run: stdout: {error.strerror or error}; the log files have everything")


class _Copy:
    """Lines of one stream that hold one of several words, in a file beside the ranks' folders."""

    def __init__(self, stream: Stream, needles: tuple[str, ...]) -> None:
        self._name, self._needles = f"filtered_{stream}.log", needles
        self._folder = ""
        self._file: IO[str] | None = None

    def take(self, text: str, path: str) -> None:
        """Copy what is wanted of `text`; `path` is the log file it came from (empty: as before)."""
        folder = os.path.dirname(os.path.dirname(path)) if path else self._folder
        if folder != self._folder:  # of a new attempt
            self.close()
            self._folder = folder
        lines = [line for line in text.splitlines(keepends=True) if any(word in line for word in self._needles)]
        if not self._folder or not lines:
            return
        try:
            if self._file is None:
                self._file = open(os.path.join(self._folder, self._name), "a", encoding="utf-8", errors="replace")
            self._file.writelines(lines)
            self._file.flush()
        except OSError:
            self._needles = ()  # a full disk: the run says so at its end

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _fd(stream: IO[str] | None) -> int:
    """A stream's descriptor; -1: it was closed before we came (`>&-`)."""
    try:
        return -1 if stream is None else stream.fileno()
    except (OSError, ValueError):
        return -1


def _encoding(stream: IO[str] | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"
