"""One rank's part of the static page: its last lines, traceback, images and files, in a `<details>`.

    Board.lines, RankSnapshot, images -> [here] -> view/html

Runs in: owner. Pure functions over what the board holds.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from .amounts import counted, size_words
from .board import Board, RankSnapshot
from .colours import BLOCK, FAINT, to_html
from .heading import SIGNS, end_words
from .inert import cut, inert, inert_name
from .stacks import traceback_text, trimmed_stacks
from .streams import told_apart

__all__ = ["BORDER", "ImageAllowance", "RankPage", "bounded", "byte_size", "preformatted", "shortened"]

BORDER = "rgba(128,128,128,0.35)"
_MOST_LINES = 200
_MOST_CHARACTERS = 2000  # of one line
_MOST_LINE_BYTES = 128 << 10
_MOST_TRACEBACK_BYTES = 8 << 10
_MOST_IMAGE_BYTES = 256 << 10
_IMAGE = "margin:0.4em 0.7em"
_PNG = b"\x89PNG\r\n\x1a\n"
_FONTS = "ui-monospace,Menlo,Consolas,monospace"
_PRE = (
    f"{BLOCK};margin:0;padding:0.4em 0.7em;font-family:{_FONTS};font-family:var(--jp-code-font-family,{_FONTS});"
    "font-size:0.92em;line-height:1.4;white-space:pre-wrap;word-wrap:break-word;word-break:normal"
)
# From the bottom up, so that what is seen first are the last lines.
_SCROLL = "max-height:28em;overflow:auto;display:flex;flex-direction:column-reverse"
_MARK = to_html("\x1b[1;33m┃\x1b[0m ")


def byte_size(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def preformatted(inner: str) -> str:
    """A block of terminal text; `inner` is HTML."""
    # The inner one keeps the outer from squeezing what it should scroll.
    return f'<div style="{_SCROLL}"><div><pre style="{_PRE}">{inner}</pre></div></div>'


def shortened(text: str, most: int) -> str:
    """At most about `most` characters of a text of lines: its beginning and, mostly, its end.

    >>> print(shortened("Traceback:\\n" + "  a\\n" * 99 + "Error: no", 34))
    Traceback:
      a
    ... 96 lines left out
      a
      a
    Error: no
    """
    if len(text) <= most:
        return text
    lines = text.split("\n")
    room = most
    kept: list[int] = []
    order = sorted(range(len(lines)), key=lambda at: min(4 * at + 1, 2 * (len(lines) - at)))
    for at in order:
        room -= min(len(lines[at]), _MOST_CHARACTERS) + 1
        if room < 0 and kept:
            break
        kept.append(at)
    made: list[str] = []
    before = -1
    for at in [*sorted(kept), len(lines)]:
        if at - before > 1:
            made.append(f"... {counted(at - before - 1, 'line')} left out")
        if at < len(lines):
            made.append(lines[at])
        before = at
    return "\n".join(made)


_FRAME_BYTES = 2 * byte_size(preformatted("")) + 400


def bounded(text: str, most_bytes: int) -> str:
    """A text of lines as HTML of at most that many bytes, shortened in its middle where it must be."""
    most = most_bytes
    while True:
        short = "\n".join(cut(line, _MOST_CHARACTERS) for line in shortened(text, most).split("\n"))
        made = inert(short, 2 * most)
        if byte_size(made) <= most_bytes:
            return made
        most //= 2  # escaping makes up to six bytes of one


class ImageAllowance:
    """How many bytes of a page images and words about them may still take."""

    def __init__(self, left: int) -> None:
        self._left = left

    def draw(self, images: Sequence[tuple[str, bytes]]) -> list[str]:
        """Each image as HTML; where it is none or too large, its name and why; in the end how many had no room."""
        drawn: list[str] = []
        for name, png in images:
            made = self._drawn(name, png)
            if byte_size(made) > self._left:
                drawn.append(f'<p style="{_IMAGE}">... {counted(len(images) - len(drawn), "more image")}</p>')
                break
            self._left -= byte_size(made)
            drawn.append(made)
        return drawn

    def _drawn(self, name: str, png: bytes) -> str:
        words = inert_name(name)
        if not png.startswith(_PNG):
            return f'<p style="{_IMAGE}">image {words}: not a PNG file</p>'
        made = (
            f'<p style="{_IMAGE}"><img src="data:image/png;base64,{base64.b64encode(png).decode()}"'
            f' alt="{inert(name, 300)}" style="max-width:100%;max-height:480px"><br>{words}</p>'
            if len(png) <= _MOST_IMAGE_BYTES
            else ""
        )
        if made and byte_size(made) <= self._left:
            return made
        return f'<p style="{_IMAGE}">image {words}: {size_words(len(png))}, too large to be kept in the notebook</p>'


@dataclass
class RankPage:
    """One rank: what was read of it, and how much of that there is room for.

    Attributes:
        rank: As the board has it.
        lines: HTML of each of its last lines.
        is_cut: Whether there are earlier ones.
        traceback: HTML of its own traceback or stacks; empty where the page shows it elsewhere.
        has_raised: Whether that is an exception's.
        images: HTML of each.
        is_open: Whether it is unfolded.
        allowance: Bytes for lines and traceback; set before `draw`.
    """

    rank: RankSnapshot
    lines: list[str]
    is_cut: bool
    traceback: str
    has_raised: bool
    images: list[str] = field(default_factory=list)
    is_open: bool = False
    allowance: int = 0

    @classmethod
    def of(
        cls,
        board: Board,
        rank: RankSnapshot,
        *,
        is_root: bool,
    ) -> RankPage:
        """Read a rank's lines from the board; the root cause's traceback is left to the page's top."""
        lines, is_cut = _lines(board, rank.rank)
        text = "" if is_root or rank.failure is None else traceback_text(rank.failure)
        if not text and rank.stacks and not is_root:
            text = "\n".join(trimmed_stacks(rank.stacks))
        has_raised = rank.failure is not None and rank.failure.exception is not None
        return cls(rank, lines, is_cut, bounded(text, _MOST_TRACEBACK_BYTES) if text else "", has_raised)

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to unfold."""
        return not (self.lines or self.traceback or self.images)

    @property
    def need(self) -> int:
        """Bytes that would hold all its lines and its traceback."""
        return byte_size(self.traceback) + sum(byte_size(line) + 1 for line in self.lines) + 200

    @property
    def fixed(self) -> int:
        """Bytes of everything else but images."""
        return byte_size(self._draw([], "")) - sum(map(byte_size, self.images)) + _FRAME_BYTES

    def draw(self) -> str:
        """The rank as HTML, with as many of its last lines as `allowance` holds."""
        trace = self.traceback if byte_size(self.traceback) <= self.allowance // 2 else ""
        left = self.allowance - byte_size(trace)
        first = len(self.lines)
        while first and (left := left - byte_size(self.lines[first - 1]) - 1) >= 0:
            first -= 1
        kept = self.lines[first:]
        if kept and (self.is_cut or first):
            kept.insert(0, f'<span style="{FAINT}">... earlier lines are in the log files</span>')
        return self._draw(kept, trace)

    def _draw(self, kept: list[str], trace: str) -> str:
        rank = self.rank
        about = [end_words(rank)]
        if self.lines:
            about.append(f"last {counted(_MOST_LINES, 'line')}" if self.is_cut else counted(len(self.lines), "line"))
        if self.images:
            about.append(counted(len(self.images), "image"))
        parts = [
            f'<details{" open" if self.is_open else ""} style="margin:0.3em 0;border:1px solid {BORDER};'
            f'border-radius:6px;overflow:hidden"><summary style="cursor:pointer;padding:0.25em 0.7em">'
            f"<b>{SIGNS[rank.state]} rank {rank.rank}</b> {' · '.join(about)}</summary>\n"
        ]
        if kept:
            parts.append(preformatted("\n".join(kept)))
        if trace:
            label = "Traceback" if self.has_raised else "Python stacks"
            parts += [f'<p style="margin:0.4em 0.7em 0.2em">{label} of rank {rank.rank}:</p>\n', preformatted(trace)]
        parts += self.images
        files = [
            f"{stream}: {inert_name(path, 500)}"
            for stream, path in (("stdout", rank.stdout_path), ("stderr", rank.stderr_path))
            if path
        ]
        if any(_MARK in line for line in kept):
            files.insert(0, f"{_SIGN_WORDS} written to stderr")
        if files:
            parts.append(f'<p style="margin:0.3em 0.7em;font-size:0.85em;opacity:0.8">{"<br>".join(files)}</p>\n')
        parts.append("</details>\n")
        return "".join(parts)


_SIGN_WORDS = "<b>┃</b>"


def _lines(board: Board, rank: int) -> tuple[list[str], bool]:
    """The last lines as HTML, and whether there are more."""
    most = _MOST_LINES + 1
    merged = board.lines(rank, most)
    stderr = board.lines(rank, most, "stderr")
    made: list[str] = []
    size = 0
    told = told_apart(merged, board.lines(rank, most, "stdout"), stderr)
    for line, stream in list(zip(merged, told, strict=True))[: -_MOST_LINES - 1 : -1]:
        drawn = to_html(line, _MOST_CHARACTERS)
        if stderr:
            drawn = (_MARK if stream == "stderr" else "  ") + drawn
        size += byte_size(drawn) + 1
        if size > _MOST_LINE_BYTES:
            return made[::-1], True
        made.append(drawn)
    return made[::-1], len(merged) > _MOST_LINES
