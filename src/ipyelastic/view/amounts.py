"""Durations and sizes as a person reads them, the same in the panel, the static page and the text.

Runs in: owner. Pure functions.
"""

from __future__ import annotations

__all__ = ["counted", "duration_words", "size_words"]


def duration_words(seconds: float) -> str:
    """Seconds, with as much of them as still matters.

    >>> [duration_words(seconds) for seconds in (0.04, 41.23, 59.97, 185.4, 7380)]
    ['0.0 s', '41.2 s', '1 min 00 s', '3 min 05 s', '2 h 03 min']
    """
    if round(seconds, 1) < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size_words(size_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves at least one of it.

    >>> [size_words(size) for size in (1, 1000, 1536, 1024 * 1024 - 1, 3 << 30)]
    ['1 byte', '1000 bytes', '1.5 KiB', '1.0 MiB', '3.0 GiB']
    """
    if size_bytes < 1024:
        return counted(size_bytes, "byte")
    size = size_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if size < 1023.95:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "rank"), counted(4096, "rank")
    ('1 rank', '4096 ranks')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
