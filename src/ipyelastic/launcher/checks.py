"""Whether a value can be taken for an option: each check returns it in the form that runs use, or refuses it.

    options.RunOptions, at its construction > [here]

Runs in: owner. Every refusal is one line that names the value and what would be taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..terms.errors import OptionError, nearest

__all__ = [
    "NPROC_WORDS",
    "Nproc",
    "Gpus",
    "MOST_RANKS",
    "check_word",
    "checked_env",
    "checked_gpus",
    "checked_log_dir",
    "checked_nproc",
    "checked_ranks",
    "checked_restarts",
    "checked_seconds",
    "checked_seed",
    "checked_switch",
    "one_of",
    "ranges_text",
]

MOST_RANKS = 1024  # per machine: far above what one machine can use, far below what brings it down
MOST_GPUS = 1024  # likewise: `--gpus 0-99999999999` must not fill the memory

Nproc = int | str | None
Gpus = tuple[int, ...] | str | None

NPROC_WORDS = ("auto", "gpu", "cpu")
_GPUS_EXPECTED = "expected GPU numbers such as 0,2-3, or free"


def checked_nproc(nproc: Any) -> Nproc:
    """A number of ranks as an int, `"auto"`, `"gpu"`, `"cpu"` or None."""
    words = NPROC_WORDS
    expected = 'expected a number, "cpu", "gpu" or "auto"'
    if nproc is None or (isinstance(nproc, str) and nproc in words):
        return nproc
    if isinstance(nproc, str) and nproc.strip().lstrip("+-").isdigit():
        try:
            nproc = int(nproc)
        except ValueError:  # `+-2`; digits of other scripts that int() does not take
            pass
    if isinstance(nproc, bool) or not hasattr(nproc, "__index__"):
        raise OptionError(f"nproc={nproc!r}: {expected}{nearest(str(nproc), words)}")
    number = nproc.__index__()
    if not 1 <= number <= MOST_RANKS:
        raise OptionError(f"nproc={number}: expected 1 to {MOST_RANKS} ranks")
    return int(number)


def checked_gpus(gpus: Any) -> Gpus:
    """GPU numbers in the order given, `"free"`, or None. Whether they are there is asked at the launch."""
    if gpus is None:
        return None
    if isinstance(gpus, str):
        if gpus.strip().lower() == "free":
            return "free"
        numbers = numbers_of(gpus, MOST_GPUS)
        if numbers is None:
            raise OptionError(f"gpus={gpus!r}: {_GPUS_EXPECTED}{nearest(gpus, ['free'])}")
    else:
        # A bare 2 could mean two GPUs as well as GPU 2: only text and lists are taken.
        try:
            numbers = [int(number.__index__()) for number in gpus if not isinstance(number, bool)]
            is_whole = len(numbers) == len(gpus)
        except (TypeError, AttributeError):
            numbers, is_whole = [], False
        if not is_whole or not numbers or min(numbers) < 0:
            more = "; nproc says how many ranks" if isinstance(gpus, int) else ""
            raise OptionError(f"gpus={gpus!r}: expected GPU numbers such as '0,2-3' or [0, 2], or 'free'{more}")
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise OptionError(f"gpus={gpus!r}: GPU {twice[0]} is named twice")
    return tuple(numbers)


def check_word(name: str, value: Any, words: Sequence[str], missing: Mapping[str, str]) -> None:
    """Refuse all but `words`; those in `missing` with the reason why not yet."""
    if isinstance(value, str) and value in words:
        return
    why = missing.get(value) if isinstance(value, str) else None
    raise OptionError(
        f"{name}={value!r}: not yet ({why})"
        if why
        else f"{name}={value!r}: expected {one_of(words)}{nearest(str(value), words)}"
    )


def checked_seconds(name: str, value: Any, is_zero_fine: bool) -> float | None:
    """Seconds as a float, or None."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not (seconds > 0 or (is_zero_fine and seconds == 0)) or seconds == float("inf"):
        raise OptionError(f"{name}={value!r}: expected seconds, {'0 or more' if is_zero_fine else 'more than 0'}")
    return seconds


def checked_env(environment: Any) -> dict[str, str]:
    """A copy of names and texts."""
    if not isinstance(environment, Mapping):
        raise OptionError(f"env={environment!r}: expected a mapping of names to text")
    for name, value in environment.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise OptionError(f"env: {name!r} is no name of an environment variable")
        if not isinstance(value, str) or "\0" in value:
            raise OptionError(f"env: the value of {name} is {value!r}: expected text")
    return dict(environment)


def checked_seed(seed: Any) -> int | None:
    """A seed, or None."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise OptionError(f"seed={seed!r}: expected a whole number, 0 or more")
    return seed


def checked_restarts(restarts: Any) -> int:
    """How often ranks may be started again, as an int."""
    number = restarts
    if isinstance(restarts, str) and restarts.strip().isdecimal():
        number = int(restarts)
    if isinstance(number, bool) or not hasattr(number, "__index__") or number.__index__() < 0:
        raise OptionError(f"max_restarts={restarts!r}: expected a whole number, 0 or more")
    return int(number.__index__())


def checked_switch(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r}: expected True or False")
    return value


def checked_log_dir(log_dir: Any) -> str | None:
    """A folder's whole path, or None."""
    if log_dir is None:
        return None
    if not isinstance(log_dir, (str, os.PathLike)):
        raise OptionError(f"log_dir={log_dir!r}: expected a folder's path")
    try:
        return os.path.abspath(os.path.expanduser(os.fspath(log_dir)))
    except FileNotFoundError:
        raise OptionError(f"log_dir={log_dir!r}: this folder is gone; give a whole path") from None


def checked_ranks(ranks: Any) -> frozenset[int]:
    """A set of ranks."""
    if isinstance(ranks, str):
        numbers = numbers_of(ranks, MOST_RANKS)
        if numbers is None:
            raise OptionError(f"--ranks {ranks!r}: expected ranks such as 0,2-3")
        return frozenset(numbers)
    try:
        checked = frozenset(rank.__index__() for rank in ranks)
    except (TypeError, AttributeError):
        checked = frozenset([-1])
    if any(rank < 0 for rank in checked):
        raise OptionError(f"ranks={ranks!r}: expected ranks such as 0,2-3")
    return checked


def numbers_of(text: str, most: int) -> list[int] | None:
    """Read `0,2-3`, in the order given; None when it is no such text, or reaches `most` or beyond."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return None
        low, high = int(first), int(last or first)
        if not low <= high < most:
            return None
        numbers += range(low, high + 1)
    return numbers


def ranges_text(numbers: Sequence[int]) -> str:
    """`[0, 2, 3]` -> `0,2-3`: what `numbers_of` reads, in the same order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return ", ".join(words[:-1]) + " or " + words[-1]
