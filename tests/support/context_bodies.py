"""What function workers do in the tests of contexts. Rank numbers and gates come as arguments."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from .families import announce, block
from .gates import wait_at

__all__ = ["give_back", "say", "fail_at", "big", "tell_signal", "wait_then_give_back"]


def give_back(value: Any) -> Any:
    """The argument."""
    return value


def environment(name: str) -> str | None:
    """A variable."""
    return os.environ.get(name)


def say(*lines: str) -> None:
    """Each line on both streams, by name."""
    for line in lines:
        print("out", line)
        print("err", line, file=sys.stderr)


def fail_at(gate: str, rank: int) -> None:
    """Raise once the gate is open, whoever asks us to stop before."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce("rank")
    wait_at(gate)
    raise ValueError(f"rank {rank}")


def big(rank: int) -> bytes:
    """10 MB."""
    return bytes([rank]) * 10_000_000


def tell_signal() -> None:
    """Leave a file that names the signal that ended this."""

    def tell(signum: int, frame: object) -> None:
        announce(f"got-{signal.Signals(signum).name}")
        os._exit(0)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(signum, tell)
    block()


def wait_then_give_back(gate: str, value: Any) -> Any:
    """The argument, once the gate is open."""
    announce("rank")
    wait_at(gate)
    return value


def say_and_tell(rank: int) -> tuple[int, str | None]:
    """For `_wrap`: a line on each stream, and what of the environment arrived."""
    say(str(rank))
    return rank, os.environ.get("OWN")
