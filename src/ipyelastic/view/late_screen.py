r"""A screen that is drawn when somebody looks: until then what was written is kept as it came.

    OutputChunk.text -> view/board -> [here] -> Screen, as far as it can still be seen -> `lines()`

Runs in: owner, in whichever thread feeds it; callers lock. Reading every escape sequence of a rank that floods costs a
kernel more than all else it does for it; most of what such a rank writes is gone before anyone asks.
Other end: view/screen.py; whatever carries over from one line to the next there must be known here.
"""

from __future__ import annotations

import re
from collections import deque

from .screen import HIGHEST_UP, Screen

__all__ = ["LateScreen", "thinned"]

_MOST_WAITING = 2 << 20  # an eighth of what a Screen may hold
_COST_OF_ANY = 64  # bytes that a text takes beside its characters
_UP = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,128}[ -/]{0,8}A")
_HALF = re.compile(r"(?:\x1b\[|\x9b)[0-?]{0,128}[ -/]{0,8}\Z|\x1b\Z")  # the sequence goes on in the next text
_LONGEST_HALF = 140
_OTHER_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FEW_RETURNS = 8
_NARROW = 4096  # characters, well below a Screen's width: what is longer goes on in the next line


def thinned(text: str) -> str:
    r"""The text without states of a bar that no Screen would show: those that a later one in it covers.

    A bar that is drawn thousands of times a second costs a kernel most of a CPU otherwise. Text with control sequences
    is left as it is.

    >>> thinned("\r10%|#\r20%|##\r30%|###\r" + "\r40%|####" * 9)
    '\r40%|####'
    """
    if text.count("\r") < _FEW_RETURNS or _OTHER_CONTROL.search(text):
        return text
    return "\n".join([_thinned_line(line) for line in text.split("\n")])


def _thinned_line(line: str) -> str:
    first, *states = line.split("\r")
    if len(states) < _FEW_RETURNS or max(map(len, states)) > _NARROW:
        return line
    kept = [states.pop()]
    longest = len(kept[0])
    for state in reversed(states):
        if len(state) > longest:
            longest = len(state)
            kept.append(state)
    kept.append(first)
    return "\r".join(reversed(kept))


class LateScreen:
    r"""As a `Screen` of `max_lines`, line for line, but its text is read when `lines` or `tail` is called.

    It is also read where it could not be dropped unread: when the cursor goes up, and when over `most_waiting`
    characters wait in few lines.

    >>> screen = LateScreen()
    >>> screen.feed("10%\r20%\n\x1b[1;31mred\x1b[0m alert\n")
    >>> screen.tail(2)
    ['20%', 'red alert']
    """

    def __init__(self, max_lines: int = 2000, *, most_waiting: int = _MOST_WAITING) -> None:
        self._max_lines = max_lines
        self._most_waiting = most_waiting
        self._screen = Screen(max_lines)
        self._waiting: deque[str | None] = deque()  # a text with newlines ends with one; None: `end_line`
        self._size = 0
        self._newlines = 0
        self._look_at = 2 * max_lines
        self._half = ""

    def feed(self, text: str) -> None:
        """Take what was written next. It may begin and end anywhere, within an escape sequence too."""
        goes_up = "A" in text and _UP.search(self._half + text) is not None
        half = _HALF.search((self._half + text[-_LONGEST_HALF:])[-_LONGEST_HALF:])
        self._half = half[0] if half else ""
        whole = text.rfind("\n") + 1  # lines are dropped whole
        for part in (text[:whole], text[whole:]):
            if part:
                self._waiting.append(part)
                self._size += len(part) + _COST_OF_ANY
        self._newlines += text.count("\n")
        if goes_up:
            self._read()
        elif self._newlines > self._look_at or self._size > self._most_waiting:
            self._drop_unseen()
            self._look_at = self._newlines + self._max_lines
            if self._size > self._most_waiting:
                self._read()

    def end_line(self) -> None:
        """Begin a new line below everything, unless the last one is empty; drop an open colour or a cut sequence."""
        self._half = ""
        if not self._waiting or self._waiting[-1] is not None:
            self._waiting.append(None)

    def lines(self, last: int | None = None) -> list[str]:
        """The lines with their colours, oldest first, at most `last`. Each ends without a colour open."""
        self._read()
        return self._screen.lines(last)

    def tail(self, n: int) -> list[str]:
        """The last `n` lines without colours."""
        self._read()
        return self._screen.tail(n)

    @property
    def is_updating(self) -> bool:
        """See `Screen.is_updating`."""
        self._read()
        return self._screen.is_updating

    def _read(self) -> None:
        for text in self._waiting:
            if text is None:
                self._screen.end_line()
            else:
                self._screen.feed(text)
        self._waiting.clear()
        self._size = self._newlines = 0
        self._look_at = 2 * self._max_lines

    def _drop_unseen(self) -> None:
        """Drop texts that `max_lines` further lines follow, all but their colours.

        The cursor goes up nowhere in what waits, so each newline makes a line there, once the cursor is in the last
        line; it may have stood above that, and so many newlines make none.
        """
        count, newlines = self._unseen()
        if not count or not (self._screen.is_in_last_line or newlines >= HIGHEST_UP):
            return
        dropped: list[str] = []
        for _ in range(count):
            text = self._waiting.popleft()
            if text is None:
                self._screen.end_line()
                dropped.clear()
            else:
                self._size -= len(text) + _COST_OF_ANY
                dropped.append(text)
        self._newlines -= newlines
        self._screen.skip("".join(dropped))

    def _unseen(self) -> tuple[int, int]:
        """How many texts from the first on are out of sight, and the newlines in them."""
        found = newlines = newlines_found = 0
        for count, text in enumerate(self._waiting, 1):
            if text is None or text[-1] != "\n":
                continue
            newlines += text.count("\n")
            if self._newlines - newlines < self._max_lines:
                break
            found, newlines_found = count, newlines
        return found, newlines_found
