r"""A line with ANSI colours as HTML that can be read on a light page, on a dark one, and without any style.

    Board.lines -> [here] -> view/html

Each colour is written twice. Renderers with today's CSS take the second: the terminal's colour mixed with the page's
own text colour, as much of it as either kind of page needs. Older ones, and JupyterLab for a notebook that it does not
trust (it lets neither `var()` nor `color-mix()` through in a colour), take the first, which is made for `DARK`, the
background that `BLOCK` has there.

Runs in: owner. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .inert import cut, inert

__all__ = ["BLOCK", "FAINT", "contrast", "mixed", "readable", "to_html"]

Rgb = tuple[int, int, int]

DARK: Rgb = (0x1E, 0x1E, 0x1E)
DARK_TEXT: Rgb = (0xD4, 0xD4, 0xD4)
# `background`, not `background-color`: of that one JupyterLab's filter lets the mixture through.
BLOCK = (
    "background-color:#1e1e1e;color:#d4d4d4;"
    "background:color-mix(in srgb,currentColor 5%,transparent);color:color-mix(in srgb,currentColor,currentColor)"
)
FAINT = "opacity:0.75"

_MOST_COLOUR_BYTES = 4 << 10
READABLE = 4.5  # WCAG 2.2, 1.4.3, level AA
# Text and page of the weakest pairs met: VS Code's light and dark themes; Jupyter's own have more contrast.
PAGES: tuple[tuple[Rgb, Rgb], ...] = (
    ((0x3B, 0x3B, 0x3B), (0xF5, 0xF5, 0xF5)),
    ((0xCC, 0xCC, 0xCC), (0x28, 0x28, 0x28)),
)

_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
_BASIC: tuple[Rgb, ...] = (
    *((0x00, 0x00, 0x00), (0xCC, 0x24, 0x1D), (0x1A, 0x8A, 0x34), (0xB5, 0x89, 0x00)),
    *((0x26, 0x6B, 0xD9), (0xA6, 0x3D, 0xB8), (0x0B, 0x8A, 0x99), (0xCC, 0xCC, 0xCC)),
    *((0x76, 0x76, 0x76), (0xF0, 0x4A, 0x48), (0x3F, 0xB9, 0x50), (0xE3, 0xB3, 0x41)),
    *((0x58, 0x9D, 0xF6), (0xD2, 0x70, 0xE6), (0x39, 0xC5, 0xCF), (0xFF, 0xFF, 0xFF)),
)


@dataclass(frozen=True)
class _Look:
    """What one run of characters looks like; colours None: the page's own."""

    foreground: Rgb | None = None
    background: Rgb | None = None
    attributes: frozenset[int] = frozenset()


def to_html(line: str, most: int = 2000) -> str:
    """One line, SGR sequences and all, as HTML for use inside `<pre>`; `most` characters of it are shown.

    A line whose colours would weigh far more than its text loses them.
    """
    if "\x1b" not in line:
        return inert(line, most)
    pieces = _SGR.split(line)  # text, parameters, text, ...
    plain = "".join(pieces[::2])
    made: list[str] = []
    left, style = most, ""
    for index, piece in enumerate(pieces):
        if index % 2:
            style = _style(piece)
        elif piece and left > 0:
            text = inert(piece[:left])
            made.append(f'<span style="{style}">{text}</span>' if style else text)
            left -= len(piece)
    if len(plain) > most:
        made.append(inert(cut(plain, most)[most:]))
    together = "".join(made)
    return together if len(together) <= 6 * len(plain) + _MOST_COLOUR_BYTES else inert(plain, most)


@lru_cache(maxsize=1024)
def _style(parameters: str) -> str:
    """Declarations for one set of SGR parameters, each of which starts from nothing; empty: as the page has it."""
    look = _look(parameters)
    declarations = [
        words for code, words in ((1, "font-weight:bold"), (3, "font-style:italic")) if code in look.attributes
    ]
    lines = [
        words for code, words in ((4, "underline"), (9, "line-through"), (53, "overline")) if code in look.attributes
    ]
    if lines:
        declarations.append(f"text-decoration:{' '.join(lines)}")
    foreground, background = look.foreground, look.background
    if 7 in look.attributes:
        foreground, background = background or DARK, foreground or DARK_TEXT
    if background is not None:
        declarations.insert(0, f"background-color:{_hex(background)};color:{_hex(_on(background, foreground))}")
    elif foreground is not None:
        mix = readable(foreground)
        if mix < 100:
            light = _hex(_lightened(foreground))
            declarations.insert(0, f"color:{light};color:color-mix(in srgb,currentColor {mix}%,{_hex(foreground)})")
    elif 2 in look.attributes:
        declarations.insert(0, FAINT)
    return ";".join(declarations)


def _look(parameters: str) -> _Look:
    foreground: Rgb | None = None
    background: Rgb | None = None
    attributes: set[int] = set()
    codes = iter(parameters.split(";"))
    for code in codes:
        first, *rest = code.split(":")
        number = int(first or 0) if len(first) < 4 else -1
        if number in (38, 48, 58):
            colour = _extended(number, iter(rest) if rest else codes, has_space=bool(rest))
            if number == 38:
                foreground = colour
            elif number == 48:
                background = colour
        elif number == 0:
            foreground, background, attributes = None, None, set()
        elif number in (1, 2, 3, 4, 7, 9, 53):
            attributes.add(number)
        elif number == 21:
            attributes.add(4)
        elif 30 <= number <= 37 or 90 <= number <= 97:
            foreground = _BASIC[number - 30 if number < 38 else number - 82]
        elif 40 <= number <= 47 or 100 <= number <= 107:
            background = _BASIC[number - 40 if number < 48 else number - 92]
    return _Look(foreground, background, frozenset(attributes))


def _extended(number: int, codes: Iterable[str], *, has_space: bool) -> Rgb | None:
    """The colour after 38 or 48: `5;n`, `2;r;g;b`, or with colons `2:space:r:g:b` (the space may be left out)."""
    codes = iter(codes)
    kind = next(codes, "")
    if kind == "5":
        index = next(codes, "")
        return _of_256(_byte(index)) if index else None
    if kind != "2":
        return None
    values = list(codes)[-3:] if has_space else [next(codes, "") for _ in range(3)]
    if len(values) < 3 or not any(values):
        return None
    red, green, blue = map(_byte, values)
    return (red, green, blue)


def _byte(text: str) -> int:
    return min(255, int(text)) if text.isdecimal() and len(text) < 4 else 0


def _of_256(index: int) -> Rgb:
    if index < 16:
        return _BASIC[index]
    if index >= 232:
        grey = 8 + 10 * (index - 232)
        return (grey, grey, grey)
    steps = (0, 95, 135, 175, 215, 255)
    index -= 16
    return (steps[index // 36], steps[index // 6 % 6], steps[index % 6])


@lru_cache(maxsize=1024)
def readable(colour: Rgb) -> int:
    """How much of the page's text colour, in per cent, makes this colour readable on every page; 100: nothing less."""
    for share in range(0, 100, 5):
        if all(contrast(mixed(text, colour, share), page) >= READABLE for text, page in PAGES):
            return share
    return 100


def mixed(text: Rgb, colour: Rgb, share: int) -> Rgb:
    """What CSS makes of `color-mix(in srgb, text share%, colour)`."""
    red, green, blue = (round((a * share + b * (100 - share)) / 100) for a, b in zip(text, colour, strict=True))
    return (red, green, blue)


def contrast(one: Rgb, other: Rgb) -> float:
    """The contrast ratio of WCAG, 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Rgb) -> float:
    def linear(value: int) -> float:
        part = value / 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = map(linear, colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _lightened(colour: Rgb) -> Rgb:
    """The colour with as much white as it needs on DARK."""
    white = (255, 255, 255)
    for share in range(0, 100, 5):
        if contrast(made := mixed(white, colour, share), DARK) >= READABLE:
            return made
    return white


def _on(background: Rgb, wanted: Rgb | None) -> Rgb:
    """The wanted text colour where it can be read on a background of its own, else black or white."""
    if wanted is not None and contrast(wanted, background) >= READABLE:
        return wanted
    return max(((0, 0, 0), (255, 255, 255)), key=lambda text: contrast(text, background))


def _hex(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
