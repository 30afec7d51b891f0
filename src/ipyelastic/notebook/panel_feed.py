r"""One rank's output as its terminal in the page gets it: bounded, each stream in its colour.

    OutputChunk -> panel_stream -> [here] -> one buffer of a message -> xterm.js

Runs in: owner; panel_stream locks.
Other end: src/frontend/theme.js decides what colour 52 looks like.
"""

from __future__ import annotations

import re
from collections import deque

from ..terms.events import OutputChunk, Stream
from ..view.late_screen import thinned
from ..view.text import skipped_words

__all__ = ["RankFeed", "MOST_PER_TICK"]

MOST_PER_TICK = 32 << 10

_BASE = "38;5;52"  # stderr's own foreground; what a rank colours itself keeps its colour
# CAN ends an escape sequence that was left half said, so that one stream cannot swallow the other.
_CANCEL = b"\x18"
_SWITCH: dict[Stream, bytes] = {"stdout": b"\x1b[0;39m", "stderr": f"\x1b[0;{_BASE}m".encode()}
_SGR = re.compile(r"\x1b\[([\d;:]*)m")


class RankFeed:
    """What was shown of one rank, and what is still to be.

    Args:
        tail_bytes: So much of what was shown is kept, for views that come later.
    """

    def __init__(self, tail_bytes: int = 256 << 10) -> None:
        self._tail_bytes = tail_bytes
        self._segments: deque[tuple[Stream | None, bytearray]] = deque()  # None: a word of ours
        self._size = 0
        self._skipped_bytes = 0
        self._path = ""
        self._on: Stream | None = None
        self._is_at_line_start = True
        self._shown = bytearray()
        self._is_cut = False

    @property
    def has_more(self) -> bool:
        """Whether something is to be shown."""
        return bool(self._size or self._skipped_bytes)

    def take(self, chunk: OutputChunk) -> None:
        """Take what the rank wrote next. Of far more than can be shown only the newest is kept."""
        self._path = chunk.path
        if chunk.skipped_bytes:  # the reader fell behind: what waits here is older still
            self._skipped_bytes += self._size + chunk.skipped_bytes
            self._segments.clear()
            self._size = 0
        text = thinned(chunk.text)  # of a bar that is drawn a thousand times a tick, what the eye can see
        text = tinted(text) if chunk.stream == "stderr" else text
        self._add(chunk.stream, text.encode("utf-8", "replace"))
        if self._size > 4 * MOST_PER_TICK:
            self._skip_to(MOST_PER_TICK)

    def divide(self, words: str) -> None:
        """Put a line of ours between what was and what comes."""
        self._add(None, f"\x1b[0m\x1b[2m{words}\x1b[0m\n".encode())

    def take_delta(self, most: int = MOST_PER_TICK) -> bytes:
        """What is to be shown now, `most` bytes or a note's length more; the rest is skipped, and the text says so."""
        if self._size > most:
            self._skip_to(most)
        out = bytearray()
        if self._skipped_bytes:
            note = skipped_words(OutputChunk(0, "stdout", "", self._path, self._skipped_bytes))
            out += _CANCEL + b"\x1b[0m" + self._line_start() + f"\x1b[2m{note}\x1b[0m\n".encode()
            self._skipped_bytes, self._on, self._is_at_line_start = 0, None, True
        for stream, data in self._segments:
            if stream != self._on:
                # A print is not written over the other stream's progress bar.
                out += _CANCEL + self._line_start()
                if stream is not None:
                    out += _SWITCH[stream]
                self._on = stream
            out += data
            self._is_at_line_start = data.endswith(b"\n")
        self._segments.clear()
        self._size = 0
        self._remember(out)
        return bytes(out)

    def tail(self) -> bytes:
        """What was shown last, for a terminal that is new."""
        if not self._is_cut:
            return bytes(self._shown)
        first = min((at for code in _SWITCH.values() if (at := self._shown.find(code)) >= 0), default=-1)
        before: Stream | None = self._on
        if first >= 0:
            before = "stdout" if self._shown.startswith(_SWITCH["stderr"], first) else "stderr"
        style = b"" if before is None else _SWITCH[before]
        return f"\x1b[2m... earlier output: see {self._path}\x1b[0m\n".encode() + style + bytes(self._shown)

    def _line_start(self) -> bytes:
        return b"" if self._is_at_line_start else b"\n"

    def _add(self, stream: Stream | None, data: bytes) -> None:
        if not data:
            return
        if self._segments and self._segments[-1][0] == stream:
            self._segments[-1][1].extend(data)
        else:
            self._segments.append((stream, bytearray(data)))
        self._size += len(data)

    def _skip_to(self, most: int) -> None:
        """Drop the oldest until at most `most` bytes are left, if possible at a line's start."""
        while self._size > most:
            data = self._segments[0][1]
            over = self._size - most
            if over >= len(data):
                cut = len(data)
            else:
                newline = data.find(b"\n", over - 1)
                cut = newline + 1 if newline >= 0 else over
                while cut < len(data) and data[cut] & 0xC0 == 0x80:  # not within a character
                    cut += 1
            del data[:cut]
            self._size -= cut
            self._skipped_bytes += cut
            if not data:
                self._segments.popleft()

    def _remember(self, data: bytes | bytearray) -> None:
        self._shown += data
        if len(self._shown) > 2 * self._tail_bytes:
            over = len(self._shown) - self._tail_bytes
            newline = self._shown.find(b"\n", over)
            del self._shown[: newline + 1 if newline >= 0 else over]
            self._is_cut = True


def tinted(text: str) -> str:
    r"""Text of stderr with our colour put back wherever it returns to the default one.

    >>> tinted("\x1b[1;32mgood\x1b[0m again")
    '\x1b[1;32mgood\x1b[0;38;5;52m again'
    """
    return _SGR.sub(_retinted, text) if "\x1b[" in text else text


def _retinted(found: re.Match[str]) -> str:
    words = found[1].split(";")
    out: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word in ("38", "48", "58"):  # 38;5;N and 38;2;R;G;B: their zeros are no resets
            count = {"5": 3, "2": 5}.get(words[at + 1] if at + 1 < len(words) else "", 2)
            out += words[at : at + count]
            at += count
            continue
        if word.lstrip("0") == "":
            out += ["0", _BASE]
        else:
            out.append(_BASE if word == "39" else word)
        at += 1
    return f"\x1b[{';'.join(out)}m"
