"""Text from anywhere (a rank, a path, an exception) as HTML text that can do nothing but be read.

Runs in: owner. Pure functions.
Other end: view/html.py, view/colours.py; nothing foreign goes into a page past these.
"""

from __future__ import annotations

import html
import re

__all__ = ["cut", "inert", "inert_name", "inert_words", "shown"]

_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
_PICTURES[0x7F] = "␡"
_PICTURES.update(dict.fromkeys(range(0x80, 0xA0), "\ufffd"))
# What turns the reading direction of the text after it; marks (U+200E, U+200F) turn nothing and stay.
_PICTURES.update({code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))})
_PICTURES.update({0x2028: " ", 0x2029: " "})
_UNUSUAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ALONE = re.compile(r"[\ud800-\udfff]")
_ACCENT = r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_HEAPED = re.compile(rf"({_ACCENT}{{4}}){_ACCENT}+")


def shown(text: str) -> str:
    r"""Text in which what cannot be seen can be: control characters as pictures, direction overrides spelt out.

    Newlines and tabs stay; lone surrogates, which no file can hold, become U+FFFD; accents heaped on one letter end
    after four.

    >>> shown("a\x00b\x1b[2J")
    'a␀b␛[2J'
    """
    if _UNUSUAL.search(text):
        text = _ALONE.sub("\ufffd", text.replace("\r\n", "\n").translate(_PICTURES))
    return text if text.isascii() else _HEAPED.sub(r"\1", text)


def cut(text: str, most: int) -> str:
    """At most `most` characters of a text, and how many more there were.

    >>> cut("abcdef", 4)
    'abcd... (2 more characters)'
    """
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} more characters)"


def inert(text: str, most: int = 2000) -> str:
    """HTML for use inside `<pre>` or `<code>`, where it is also no formula; `most` characters of it."""
    return html.escape(shown(cut(text, most)))


def inert_words(text: str, most: int = 300) -> str:
    """HTML of one line for use anywhere, in the font around it.

    MathJax, which JupyterLab lets loose on all HTML, passes over `<code>`: dollar signs stay dollar signs.
    """
    return f'<code style="{_PLAIN};font-family:inherit;font-size:1em">{_one_line(text, most)}</code>'


def inert_name(text: str, most: int = 300) -> str:
    """As `inert_words`, for a name or a path: in the font of code."""
    return f'<code style="{_PLAIN}">{_one_line(text, most)}</code>'


_PLAIN = "background:none;padding:0"


def _one_line(text: str, most: int) -> str:
    return inert(" ".join(text.split()), most)
