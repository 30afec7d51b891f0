r"""What a terminal would show of a rank's text, as a bounded list of lines.

    OutputChunk.text -> view/late_screen, view/text -> [here] -> static page, prefixed text, `tail()`

Runs in: owner, in whichever thread feeds it; callers lock. Not a terminal: colours, `\r`, backspace, "erase line" and
"cursor up" are followed, because progress bars need them; all other control sequences are dropped. One character is
one column.
Other end: view/late_screen.py, which must know what carries over from line to line; xterm.js draws the same text live.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from functools import lru_cache
from itertools import islice

__all__ = ["HIGHEST_UP", "Screen"]

HIGHEST_UP = 100
"""Rows a cursor may come back to; more than any stack of progress bars has."""

_RESET = "\x1b[0m"
_TEXT = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f]+"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CSI = r"(?:\x1b\[|\x9b)"
_STRING = r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])"  # OSC (title, clipboard, links), DCS, SOS, PM, APC
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})"
    rf"|{_CSI}(?P<parameters>[0-?]{{0,128}})[ -/]{{0,8}}(?P<final>[@-~])"
    # A string without its end is over at the line's end: else one cut-off title would eat all that follows.
    rf"|{_STRING}[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n)|(?=\x1b[^\\])|(?P<open>\x1b?\Z))"
    rf"|(?P<cut>{_CSI}[0-?]{{0,128}}[ -/]{{0,8}}\Z|\x1b[ -/]{{0,8}}\Z)"
    r"|\x1b[ -/]{0,8}[0-Z\\^-~]"
    r"|.",
    re.DOTALL,
)


class _Row:
    """One line: its characters, and where which colours begin (None: no colours at all)."""

    __slots__ = ("runs", "text")

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.runs: list[tuple[int, str]] | None = None

    def rendered(self) -> str:
        if self.runs is None:
            return self.text
        pieces: list[str] = []
        is_open = False
        ends = [start for start, _ in self.runs[1:]] + [len(self.text)]
        for (start, style), end in zip(self.runs, ends, strict=True):
            if is_open:
                pieces.append(_RESET)
            is_open = bool(style)
            pieces.append(f"\x1b[{style}m{self.text[start:end]}" if style else self.text[start:end])
        if is_open:
            pieces.append(_RESET)
        return "".join(pieces)

    def write(self, column: int, text: str, style: str) -> None:
        if column > len(self.text):
            self.write(len(self.text), " " * (column - len(self.text)), "")
        end = column + len(text)
        if style or self.runs is not None:
            self.runs = self._runs_with(column, end, style)
        self.text = self.text + text if column == len(self.text) else self.text[:column] + text + self.text[end:]

    def cut(self, column: int) -> None:
        self.text = self.text[:column]
        if self.runs is not None:
            self.runs = [run for run in self.runs if run[0] < column] or None

    def _runs_with(self, start: int, end: int, style: str) -> list[tuple[int, str]]:
        runs = self.runs if self.runs is not None else [(0, "")] if self.text else []
        if start == len(self.text):  # at the end, nearly always
            if not runs or runs[-1][1] != style:
                runs.append((start, style))
            return runs
        first, after = bisect_left(runs, (start,)), bisect_left(runs, (end + 1,))
        new = [(start, style)] if not first or runs[first - 1][1] != style else []
        if end < len(self.text) and runs[after - 1][1] != style:
            new.append((end, runs[after - 1][1]))
        runs[first:after] = new
        return runs


class Screen:
    r"""Text in, lines out: the last `max_lines` of them, as a terminal without a right edge would show them.

    Args:
        max_lines: Older lines are dropped; None keeps all, for a caller that takes them out.
        max_width: A line of more characters goes on in the next one.

    >>> screen = Screen()
    >>> screen.feed("10%\r20%\n\x1b[1;31mred\x1b[0m alert\n")
    >>> screen.plain_lines()
    ['20%', 'red alert']
    >>> screen.lines()[1]
    '\x1b[1;31mred\x1b[0m alert'
    """

    def __init__(self, max_lines: int | None = 2000, *, max_width: int = 8192) -> None:
        if max_width < 1 or (max_lines is not None and max_lines < 1):
            raise ValueError(f"max_lines={max_lines!r}, max_width={max_width!r}: expected at least 1 each")
        self._max_lines = max_lines
        self._max_width = max_width
        # One row more than may be shown: the cursor stands in a fresh one after each newline.
        self._rows: deque[_Row] = deque([_Row()], None if max_lines is None else max_lines + 1)
        self._up = 0  # rows between the cursor's and the last one
        self._column = 0
        self._style = ""
        self._cut = ""
        self.is_updating = False
        """Whether the line at the cursor was gone back to, as a progress bar does."""

    def feed(self, text: str) -> None:
        """Take what was written next. It may begin and end anywhere, within an escape sequence too."""
        if self._cut:
            text, self._cut = self._cut + text, ""
        if not _CONTROL.search(text):
            self._write(text)
            return
        for token in _TOKEN.finditer(text.replace("\r\n", "\n")):
            kind = token.lastgroup
            if kind == "text":
                self._write(token[0])
            elif kind == "final":
                self._control(token["parameters"], token["final"])
            elif kind == "cut":
                self._cut = token[0]
            elif kind == "open":  # what it says is dropped, so its beginning is enough to know it by
                self._cut = token[0][: 2 if token[0][0] == "\x1b" else 1] + token["open"]
            elif token[0] == "\r":
                self._column = 0
                self.is_updating = True
            elif token[0] == "\b":
                self._column = max(0, self._column - 1)

    def skip(self, text: str) -> None:
        """Take text, with a newline at its end, of which nothing will be seen: all lines go, its colours stay."""
        text = self._cut + text
        start = max(text.rfind(_RESET), text.rfind("\x1b[m"))  # no sequence goes on beyond an escape
        if start >= 0:
            self._style = ""
        # To look for a character is ten times as quick as to match plain text; most that is skipped is plain.
        start = text.find("\x1b", max(0, start)) if text.isascii() else max(0, start)
        for token in _TOKEN.finditer(text, start) if start >= 0 else ():
            if token.lastgroup == "final" and token["final"] == "m":
                self._control(token["parameters"], "m")
        self._rows.clear()
        self._rows.append(_Row())
        self._cut = ""
        self._up = self._column = 0
        self.is_updating = False

    @property
    def is_in_last_line(self) -> bool:
        """Whether the cursor stands in the last line: a newline begins a new one."""
        return not self._up

    def lines(self, last: int | None = None) -> list[str]:
        """The lines with their colours, oldest first, at most `last`. Each ends without a colour open."""
        return [row.rendered() for row in self._shown(last)]

    def plain_lines(self, last: int | None = None) -> list[str]:
        """The lines without colours, oldest first, at most `last`."""
        return [row.text for row in self._shown(last)]

    def tail(self, n: int) -> list[str]:
        """The last `n` lines without colours."""
        return self.plain_lines(n)

    def end_line(self) -> None:
        """Begin a new line below everything, unless the last one is empty; drop an open colour or a cut sequence."""
        self._cut = self._style = ""
        self._up = 0
        if self._rows[-1].text:
            self._newline()
        self._column = 0
        self.is_updating = False

    def take_finished(self) -> list[str]:
        """Remove and return, with colours, the lines above the cursor's, which no text can change any more."""
        count = len(self._rows) - 1 - self._up
        return [self._rows.popleft().rendered() for _ in range(count)]

    def _shown(self, last: int | None) -> list[_Row]:
        end = len(self._rows) - (not self._rows[-1].text)
        count = min(end if limit is None else limit for limit in (self._max_lines, last))
        return list(islice(self._rows, max(0, end - max(0, count)), end))

    def _write(self, text: str) -> None:
        first, *rest = text.split("\n")
        self._put(first)
        if not rest:
            return
        if self._up or self._style or max(map(len, rest)) > self._max_width:
            for line in rest:
                self._newline()
                self._put(line)
            return
        self._rows.extend(map(_Row, rest if self._max_lines is None else rest[-self._max_lines - 1 :]))
        self._column = len(rest[-1])
        self.is_updating = False

    def _put(self, text: str) -> None:
        while self._column + len(text) > self._max_width:
            if room := self._max_width - self._column:
                self._rows[-1 - self._up].write(self._column, text[:room], self._style)
                text = text[room:]
            self._newline()
        if text:
            self._rows[-1 - self._up].write(self._column, text, self._style)
            self._column += len(text)

    def _newline(self) -> None:
        self._column = 0
        if self._up:
            self._up -= 1
            return
        self._rows.append(_Row())
        self.is_updating = False

    def _control(self, parameters: str, final: str) -> None:
        if final == "m":
            self._style = _folded(f"{self._style};{parameters}" if self._style else parameters)
        elif final == "K":
            self._erase(parameters)
        elif final in "AB":
            count = int(parameters) if parameters.isdecimal() and len(parameters) < 6 else 1
            count = max(1, count) if final == "A" else -max(1, count)
            self._up = max(0, min(self._up + count, len(self._rows) - 1, HIGHEST_UP))
            self.is_updating = True

    def _erase(self, parameters: str) -> None:
        row = self._rows[-1 - self._up]
        if parameters in ("", "0"):
            row.cut(self._column)
        elif parameters == "2":
            row.cut(0)
        elif parameters == "1" and row.text:
            row.write(0, " " * min(self._column + 1, len(row.text)), "")


_GROUPS = {  # which codes replace each other
    **dict.fromkeys([*range(30, 38), 38, *range(90, 98)], "foreground"),
    **dict.fromkeys([*range(40, 48), 48, *range(100, 108)], "background"),
    **{code: f"attribute {code}" for code in (1, 2, 3, 4, 5, 7, 8, 9, 53)},
    6: "attribute 5",
    21: "attribute 4",
    58: "underline colour",
}
_ENDS = {
    22: ("attribute 1", "attribute 2"),
    23: ("attribute 3",),
    24: ("attribute 4",),
    25: ("attribute 5",),
    27: ("attribute 7",),
    28: ("attribute 8",),
    29: ("attribute 9",),
    39: ("foreground",),
    49: ("background",),
    55: ("attribute 53",),
    59: ("underline colour",),
}


@lru_cache(maxsize=1024)
def _folded(parameters: str) -> str:
    """SGR parameters one after the other -> the shortest that have the same effect; empty: no colour."""
    held: dict[str, str] = {}
    codes = parameters.split(";")
    index = 0
    while index < len(codes):
        code = codes[index]
        index += 1
        number = int(code) if code.isdecimal() and len(code) < 4 else 0 if not code else -1
        if ":" in code:  # `38:2::r:g:b`, one parameter
            number = int(code.split(":")[0] or 0) if code.split(":")[0].isdecimal() else -1
        elif number in (38, 48, 58):
            length = {"5": 2, "2": 4}.get(codes[index] if index < len(codes) else "", 0)
            code = ";".join([code, *codes[index : index + length]])
            index += length
            if not length or code.count(";") != length:
                continue
        if number == 0:
            held.clear()
        for group in _ENDS.get(number, ()):
            held.pop(group, None)
        if group_of := _GROUPS.get(number):
            held.pop(group_of, None)
            held[group_of] = code
    return ";".join(held.values())
