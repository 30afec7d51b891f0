"""A rank's word to its owner: the value it returns, or the exception that ended it.

    rank: send_value / send_failure -> one message (large ones: a memory file) -> owner: receive

Runs in: ranks (send), owner (receive, one thread per run).
One datagram per message: ranks share the channel and never mix. A rank's *end* is not learnt here but from the fork
server's waitpid: a child of a rank may hold this channel open.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..terms.failure import ExceptionRecord
from .measured import type_name
from .pickling import Buffers, ValuePickler
from .remedies import remedy, shortened
from .shared import read_sections, write_sections

__all__ = ["ValueChannel", "RankWord", "Unpicklable", "channel_pair", "send_value", "send_failure"]

_INLINE = 32 << 10  # bytes; a datagram far below the smallest default socket buffer
_HEAD = struct.Struct("<cIQ")
_VALUE, _FAILED = b"v", b"f"


class Unpicklable:
    """Stands for a rank's value that could not be pickled.

    Attributes:
        type_name: Its type.
        text: What `repr` said of it in the rank, shortened.
        reason: Pickle's words.
    """

    def __init__(self, type_name: str, text: str, reason: str) -> None:
        self.type_name, self.text, self.reason = type_name, text, reason

    def __repr__(self) -> str:
        return f"<{self.text or self.type_name}: stayed in the rank, {self.reason}>"


@dataclass
class RankWord:
    """What one message says."""

    rank: int
    is_value: bool
    notes: tuple[str, ...] = ()
    imports: dict[str, float] = field(default_factory=dict)
    time_ns: int = 0
    exception: ExceptionRecord | None = None
    sections: list[memoryview] = field(default_factory=list, repr=False)

    def load_value(self) -> Any:
        """Unpickle the value. Raises whatever the user's classes raise."""
        stream, *buffers = self.sections
        return pickle.loads(stream, buffers=buffers)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """The owner's end and the ranks' end of a run's value channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_value(
    fd: int,
    rank: int,
    value: Any,
    *,
    known: frozenset[str],
    run_mark: str,
    may_stand_in: bool,
    imports: Mapping[str, float] | None = None,
) -> None:
    """Send a rank's value home.

    Args:
        may_stand_in: Whether a value that cannot be pickled is replaced by an `Unpicklable` (a cell's last
            expression), rather than being the rank's failure (`launch(fn)`).
        imports: Installed modules that the rank had to import itself, and the milliseconds each took.

    Raises:
        Exception: What pickling raised, unless `may_stand_in`.
    """
    notes: list[str] = []
    file, buffers = io.BytesIO(), Buffers()
    pickler = ValuePickler(file, buffers, known, run_mark)
    try:
        pickler.dump(value)
    except Exception as error:
        if not may_stand_in:
            if hasattr(error, "add_note"):  # since Python 3.11
                said = f"the value that rank {rank} returned ({type_name(value)}) cannot go home"
                error.add_note("; ".join(filter(None, [said, remedy(value, shortened(error))])))
            raise
        file, buffers = io.BytesIO(), Buffers()
        stand_in = Unpicklable(type(value).__qualname__, _short_repr(value), shortened(error))
        said = stand_in.reason.partition(": ")[2] or stand_in.reason
        notes.append(f"the value of rank {rank} ({stand_in.type_name}) cannot be pickled and stayed there: {said}")
        pickler = ValuePickler(file, buffers, known, run_mark)
        pickler.dump(stand_in)
    notes += sorted(pickler.tensor_notes)
    meta = json.dumps({"notes": notes, "imports": dict(imports or {})}).encode()
    _send(fd, _VALUE, rank, [meta, file.getbuffer(), *(buffer.raw() for buffer in buffers)])


def send_failure(fd: int, rank: int, exception: ExceptionRecord, time_ns: int) -> None:
    """Send what ended a rank home, ahead of its exit."""
    _send(fd, _FAILED, rank, [json.dumps({"time_ns": time_ns, "exception": exception.to_dict()}).encode()])


def _short_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"{type(value).__qualname__} whose repr raised {type(error).__name__}"
    return text if len(text) <= 200 else text[:197] + "..."


def _send(fd: int, kind: bytes, rank: int, sections: list[Any]) -> None:
    views = [memoryview(section).cast("B") for section in sections]
    total = sum(view.nbytes for view in views)
    with socket.socket(fileno=os.dup(fd)) as channel:
        if total <= _INLINE:
            sizes = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
            channel.send(b"".join([_HEAD.pack(kind, rank, len(views)), sizes, *views]))
            return
        shared = write_sections(views)
        try:
            socket.send_fds(channel, [_HEAD.pack(kind, rank, 0)], [shared])
        finally:
            os.close(shared)


class ValueChannel:
    """The owner's end. `fileno()` is readable when a rank has said something."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._is_over = False
        end.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll; -1 once nobody is left who could speak (it would be readable for ever)."""
        return -1 if self._is_over else self._end.fileno()

    def receive(self) -> list[RankWord]:
        """Everything said since the last call; never blocks."""
        words: list[RankWord] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._end, 2 * _INLINE, 1, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, ConnectionError):
                return words
            if not data:
                self._is_over = True
                return words
            try:
                words.append(_read(data, fds))
            finally:
                for fd in fds:
                    os.close(fd)

    def close(self) -> None:
        self._end.close()


def _read(data: bytes, fds: list[int]) -> RankWord:
    kind, rank, count = _HEAD.unpack_from(data)
    if fds:
        sections = read_sections(fds[0])
    else:
        sizes = struct.unpack_from(f"<{count}Q", data, _HEAD.size)
        view, at, sections = memoryview(bytearray(data)), _HEAD.size + 8 * count, []
        for size in sizes:
            sections.append(view[at : at + size])
            at += size
    meta = json.loads(bytes(sections[0]))
    if kind == _FAILED:
        exception = ExceptionRecord.from_dict(meta["exception"])
        return RankWord(rank, False, time_ns=meta["time_ns"], exception=exception)
    return RankWord(rank, True, tuple(meta["notes"]), meta["imports"], sections=sections[1:])
