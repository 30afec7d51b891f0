"""Every public exception, each with fields a program can use.

    IpyelasticError
    ├── OptionError (also ValueError)          an option or argument that cannot be taken, with what would be
    ├── UnpicklableError (also TypeError)      a name, argument or value that cannot travel, and where it is used
    ├── ServerError                            the fork server could not be started, or died
    ├── RunStopped                             a person or a program asked the run to stop
    │   ├── RunTimedOut (also TimeoutError)    the run's own time limit did
    │   └── RunCancelled (also CancelledError) `run.cancel()` did
    ├── ChildFailedError                       a rank failed; torch's name, fields and text
    ├── RendezvousError                        agents could not agree who takes part; torch's names, these six
    │   ├── RendezvousClosedError              nobody can join any more
    │   ├── RendezvousTimeoutError             not complete in time
    │   ├── RendezvousConnectionError          its backend cannot be reached
    │   ├── RendezvousStateError               its state is damaged
    │   └── RendezvousGracefulExitError        this node is not needed any more: no failure
    ├── StoreTimeoutError (also RuntimeError   a key of a store was not set in time
    │                      and TimeoutError)
    └── RankTraceback                          never raised: the words of another process, as the cause of an error

Runs in: owner. `process/signals.py` has SignalException, which torch derives from Exception.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from .failure import ProcessFailure

__all__ = [
    "IpyelasticError",
    "OptionError",
    "UnpicklableError",
    "ServerError",
    "RunStopped",
    "RunTimedOut",
    "RunCancelled",
    "ChildFailedError",
    "RendezvousError",
    "RendezvousClosedError",
    "RendezvousTimeoutError",
    "RendezvousConnectionError",
    "RendezvousStateError",
    "RendezvousGracefulExitError",
    "StoreTimeoutError",
    "Tries",
    "RankTraceback",
]


class IpyelasticError(Exception):
    """Base of everything that ipyelastic raises for its users: `except IpyelasticError` takes all of it.

    They travel: every one of them can be pickled, its fields included.
    """

    def __reduce__(self) -> Any:
        """As any exception's, without the words that a notebook hung on it: those hold the shell."""
        fields = {name: value for name, value in vars(self).items() if name != "_render_traceback_"}
        return (type(self), self.args, fields) if fields else (type(self), self.args)


class OptionError(IpyelasticError, ValueError):
    """An option or argument that cannot be taken: nothing was started. Also a ValueError.

    The text names the value and what would be taken: `nproc='gpus': expected a number, "cpu", "gpu" or "auto"`.
    """

    def forget_frames(self) -> None:
        """Drop the frames so far, and what it came from: the way through our checks tells a person nothing.

        A bare `raise` in the function that the person called then begins at the person's own line.
        """
        self.__traceback__ = self.__cause__ = None
        self.__suppress_context__ = True


class UnpicklableError(IpyelasticError, TypeError):
    """Something cannot travel to a rank or back: a lock, an open file, a running thread. Also a TypeError.

    Args and attributes:
        name: The notebook name, argument or value it is about (`model`, `argument 2`, `the value of rank 1`).
        type_name: Its type as a person writes it (`_thread.lock`).
        use: Where the name is used (`Cell In[3], line 2`), or empty.
        reason: Pickle's own words.
        remedy: What to do, or empty.
    """

    def __init__(self, name: str, type_name: str, use: str = "", reason: str = "", remedy: str = "") -> None:
        super().__init__(name, type_name, use, reason, remedy)
        self.name, self.type_name, self.use, self.reason, self.remedy = name, type_name, use, reason, remedy

    def __str__(self) -> str:
        where = f", used in {self.use}," if self.use else ""
        why = f": {self.reason}" if self.reason else ""
        do = f"; {self.remedy}" if self.remedy else ""
        return f"{self.name} ({self.type_name}){where} cannot be pickled{why}{do}"


class ServerError(IpyelasticError):
    """The fork server, which starts all ranks, could not be started, or died and the run's ranks with it.

    The text says which, and how it ended. The next launch starts a new server.
    """


class RunStopped(IpyelasticError):
    """The run was asked to stop before all ranks had ended: `run.stop()`, `%elastic_stop`, the panel's button.

    Args:
        message: What a person reads.
        results: See below.

    Attributes:
        results: `{rank: value}` of the ranks that had handed over their value by then.
    """

    def __init__(self, message: str = "the run was stopped", results: Mapping[int, Any] | None = None) -> None:
        super().__init__(message)
        self.results: dict[int, Any] = dict(results or {})


class RunTimedOut(RunStopped, TimeoutError):
    """The run's own time limit, `timeout`, ended it. Also a TimeoutError.

    `run.result(timeout)` raises a plain TimeoutError when it only gives up waiting: that run goes on.

    Args:
        message: What a person reads.
        results: `{rank: value}` of the ranks that had handed over their value by then.
        timeout_s, stacks: See below.

    Attributes:
        results: As given.
        timeout_s: That limit in seconds.
        stacks: `{rank: text}`, the Python stacks of each rank at that moment.
    """

    def __init__(
        self,
        message: str = "the run timed out",
        results: Mapping[int, Any] | None = None,
        timeout_s: float = 0.0,
        stacks: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(message, results)
        self.timeout_s = timeout_s
        self.stacks: dict[int, str] = dict(stacks or {})


class RunCancelled(RunStopped, CancelledError):
    """The run was stopped by `run.cancel()`: what the standard library's futures call CancelledError, and is one.

    Attributes:
        results: `{rank: value}` of the ranks that had handed over their value by then.
    """


class RendezvousError(IpyelasticError):
    """Agents could not agree who takes part in a run.

    Source: torch 2.13, its names and tree, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class RendezvousClosedError(RendezvousError):
    """The rendezvous is closed: the run has ended, nobody can join any more.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class RendezvousTimeoutError(RendezvousError):
    """The rendezvous did not complete in time.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class RendezvousConnectionError(RendezvousError):
    """The rendezvous' backend (its store, its server) cannot be reached.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class RendezvousStateError(RendezvousError):
    """The rendezvous' shared state is damaged.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class RendezvousGracefulExitError(RendezvousError):
    """This node was redundant and is not needed any more: the agent ends, and that is no failure.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """


class StoreTimeoutError(IpyelasticError, RuntimeError, TimeoutError):
    """A key of a store was not set in time. RuntimeError, as torch's DistStoreError is.

    Args:
        message: What a person reads.
        keys: See below.

    Attributes:
        keys: Those that are not there.
    """

    def __init__(self, message: str, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = list(keys)


class RankTraceback(IpyelasticError):
    """What is to be said of ranks that failed, and the first one's traceback; Python prints it before its own.

    Never raised: it stands as `__cause__` of a ChildFailedError or RunTimedOut.
    """

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


RankTraceback.__module__ = "ipyelastic"  # Python prints a cause with its module
_WIDTH = 60  # torch's limit for the borders


@dataclass(frozen=True)
class Tries:
    """Which of a run's attempts failed.

    Attributes:
        attempt: Its number, from 0.
        max_restarts: How many more attempts there could have been; 0: the run had one.
        earlier: Of each restart before it the number of the attempt that ended, from 0, and why, in a few words.
        why_not_restarted: Why it was the last although restarts were left, as a sentence; empty otherwise.
    """

    attempt: int = 0
    max_restarts: int = 0
    earlier: tuple[tuple[int, str], ...] = ()
    why_not_restarted: str = ""


class ChildFailedError(IpyelasticError):
    """At least one rank failed.

        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            failure.exitcode, failure.signal_name(), failure.exception  # None when it raised nothing

    `run.results` has the values of the ranks that did not fail.

    Args:
        name: What was run.
        failures: `{global rank: ProcessFailure}`, not empty.

    Attributes:
        name: What was run.
        failures: Every rank that ended without a value; those that were stopped because of another have `is_stopped`.
        tries: Which attempt it was, and how those before it ended: a Tries.

    Raises:
        AssertionError: No failures, as torch has it.

    `str()` is torch's text (LICENSE names it); `ipyelastic.view.report` has ours.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/errors.html. Compared with torch's output in
    tests/terms/test_errors.py.
    """

    def __init__(self, name: str, failures: Mapping[int, ProcessFailure]) -> None:
        assert failures, "a ChildFailedError without a failure"
        self.name = name
        self.failures: dict[int, ProcessFailure] = dict(failures)
        self.tries = Tries()
        super().__init__(self.format_msg())

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.failures), {"tries": self.tries}

    def get_first_failure(self) -> tuple[int, ProcessFailure]:
        """The root cause, `(global rank, failure)`: the earliest that we did not cause by stopping the ranks."""
        rank = min(self.failures, key=lambda rank: _order(self.failures[rank]))
        return rank, self.failures[rank]

    def format_msg(self, boarder_delim: str = "=", section_delim: str = "-") -> str:
        """Torch's text: the failures in order, the root cause last.

        Args:
            boarder_delim: The letter of the lines around it (torch's spelling).
            section_delim: The letter of the lines within.
        """
        title = f"{self.name} FAILED"
        root_rank, root = self.get_first_failure()
        ordered = sorted(self.failures.items())
        others = [_entry(index, rank, failure) for index, (rank, failure) in enumerate(ordered) if failure is not root]
        root_index = [rank for rank, _ in ordered].index(root_rank)
        root_entry = _entry(root_index, root_rank, root)
        others = others or ["  <NO_OTHER_FAILURES>"]
        lines = [title, *"\n".join([*others, root_entry]).splitlines()]
        width = min(_WIDTH, max(map(len, lines)))
        border, section = boarder_delim * width, section_delim * width
        return "\n".join(
            ["", border, title, section, "Failures:", *others, section]
            + ["Root Cause (first observed failure):", root_entry, border]
        )


def _order(failure: ProcessFailure) -> tuple[bool, int, int]:
    return (failure.is_stopped, failure.timestamp_ns or failure.timestamp * 1_000_000_000, failure.local_rank)


def _entry(index: int, rank: int, failure: ProcessFailure) -> str:
    # Never socket.getfqdn(): it can stall for seconds without a network (SEEDS section 19, trap 7).
    host = failure.host or socket.gethostname()
    signal_text = f" ({failure.signal_name()})" if failure.exitcode < 0 else ""
    return "\n".join(
        [
            f"[{index}]:",
            f"  time      : {failure.timestamp_isoformat()}",
            f"  host      : {host}",
            f"  rank      : {rank} (local_rank: {failure.local_rank})",
            f"  exitcode  : {failure.exitcode} (pid: {failure.pid}) {signal_text}",
            f"  error_file: {failure.error_file}",
            f"  traceback : {_indented(_traceback_text(failure.message))}",
        ]
    )


def _traceback_text(message: Any) -> str:
    if isinstance(message, dict):
        extra = message.get("extraInfo") or {}
        return str(extra.get("py_callstack") or message.get("message") or "<N/A>")
    return str(message or "<N/A>")


def _indented(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line for line in rest)])


def nearest(value: str, known: Sequence[str]) -> str:
    """`, did you mean X?` when one of `known` is close to `value`; empty otherwise."""
    import difflib  # only when something is wrong already

    close = difflib.get_close_matches(value, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """An error's name and the first line of its text: below it torch's C++ errors carry a page of frames."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0]}" if said else type(error).__name__
