"""What became of each rank: its word (a value, an exception) and its end make a value or a failure.

    functions > take_word, take_report, finish > [here] -> values, failures, events

Runs in: agent, one thread at a time; it may load values of the user's.
Other end: payload/values.py has the words, forkserver/group.py the reports.
Source: torch 2.13 (SEEDS section 3) for the outcomes; its "never ends" rows are failures here.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..failures.read import exit_note, memory_state, read_failure
from ..forkserver.client import servers
from ..payload.remedies import shortened
from ..payload.sources import name_files
from ..payload.values import RankWord
from ..terms.events import RunNote, StackDump, WorkerEnded, WorkerStarted
from ..terms.failure import ProcessFailure
from .settings import RankSettings
from .users_code import Interrupted, UsersCode

__all__ = ["Outcomes", "stacks_file"]

_TEARDOWN_NS = 2_000_000_000  # of a killed process, whose memory is freed before it can be reaped


class Outcomes:
    """The ranks of one start, by local rank.

    Args:
        nprocs: How many ranks.
        settings: Its `sink`, `policy`, `global_ranks` and `attempt` are looked at.
        error_files: Each rank's; empty: none.
        users_code: Runs what loading a value runs.
        stop_peers: Called as soon as a rank is known to have failed.
        is_learning: Tell the servers which modules the ranks used.

    Attributes:
        pids, exits, values, failures: What is known so far; `exits` as reported. `failures`: every rank without a
            value, those that were stopped because of another included.
        why: Why the server asked the ranks to end: empty, `peer failed`, `timed out`, `stopped`.
        lost: The server's own death or failure to start ranks, as a sentence; empty otherwise.
        started_at: Monotonic seconds; set by the context.
    """

    def __init__(
        self,
        nprocs: int,
        settings: RankSettings,
        error_files: Mapping[int, str],
        users_code: UsersCode,
        stop_peers: Callable[[], None],
        *,
        is_learning: bool,
    ) -> None:
        self._nprocs, self._settings, self._error_files = nprocs, settings, error_files
        self._users_code, self._stop_peers, self._is_learning = users_code, stop_peers, is_learning
        self.pids: dict[int, int] = {}
        self.exits: dict[int, dict[str, Any]] = {}
        self.values: dict[int, Any] = {}
        self.failures: dict[int, ProcessFailure] = {}
        self._words: dict[int, RankWord] = {}
        self._unloadable: dict[int, str] = {}
        self._left: set[int] = set()  # ranks whose value was being loaded when the run was stopped
        self._heard_killed_ns: dict[int, int] = {}  # ranks that got a SIGKILL before anybody was asked to end
        self.why = ""
        self._why_ns = 0
        self.lost = ""
        self.started_at = 0.0

    @property
    def real_failures(self) -> dict[int, ProcessFailure]:
        """Failures of ranks that nobody had stopped."""
        return {rank: failure for rank, failure in self.failures.items() if not failure.is_stopped}

    def take_word(self, word: RankWord) -> None:
        """A rank's value, or why it has none."""
        self._words[word.rank] = word
        if not word.is_value:
            self._stop_peers()
            return
        for note in word.notes:
            self._emit_note(note)
        if self._is_learning:
            servers().learn(word.imports)
        try:
            where = f"loading the value of rank {self._global(word.rank)}"
            self.values[word.rank] = self._users_code.run(where, word.load_value)
        except Interrupted:
            self._left.add(word.rank)
        except BaseException as error:  # the user's __setstate__, a missing module: told as this rank's failure
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # a person's: signals come to the main thread only
            said = shortened(error)
            self._stop_peers()
            self._unloadable[word.rank] = f"it returned a value that could not be loaded here: {said}"
        finally:
            word.sections = []

    def take_report(self, report: dict[str, Any]) -> None:
        """What the server says. A rank's word must have been taken before its end is."""
        kind = report["ev"]
        if kind == "started":
            self.pids = dict(enumerate(report["pids"]))
            for rank, pid in self.pids.items():
                self._emit(WorkerStarted(self._global(rank), rank, pid, self._settings.attempt))
        elif kind == "exit":
            self.exits[report["rank"]] = report
            self._take_exit(report)
        elif kind == "stopping":
            self.why, self._why_ns = report["why"], report["time_ns"]
        elif kind in ("start-failed", "server-died"):
            self.lost = report["error"]
            self._why_ns = self._why_ns or report.get("time_ns", 0)
        elif kind == "ended" and report["left"]:
            pids = ", ".join(map(str, report["left"]))
            self._emit_note(f"processes that could not be ended are left over: {pids}")

    def _take_exit(self, report: dict[str, Any]) -> None:
        rank = report["rank"]
        is_silent = rank not in self._words and not report["why"]
        if self._settings.policy.is_exit_0_fine and report["code"] == 0 and is_silent:
            self.values[rank] = None  # os._exit(0): a program's good end, too
        failure = self._judge(rank, report)
        if failure is not None:
            self.failures[rank] = failure
            if rank not in self._words and not report["why"] and report["code"] == -signal.SIGKILL:
                self._heard_killed_ns[rank] = failure.timestamp_ns
            self._date_deaths()
            if failure.stacks:
                self._emit(StackDump(self._global(rank), failure.stacks))
        elif report["code"] != 0 and not report["why"]:
            how = f"exit code {report['code']}" if report["code"] > 0 else signal_words(-report["code"])
            self._emit_note(f"rank {self._global(rank)} had handed over its value and then ended with {how}")
        ended = WorkerEnded(self._global(rank), rank, report["pid"], report["code"], failure, self._settings.attempt)
        self._emit(ended)

    def _date_deaths(self) -> None:
        """Let a rank that somebody killed have died before the peers that failed just before we heard of it.

        The kernel closes its sockets before it can be reaped: what they say is that they lost their connection to it.
        """
        raised_ns = [failure.timestamp_ns for failure in self.real_failures.values() if failure.exitcode >= 0]
        for rank, heard_ns in self._heard_killed_ns.items():
            just_before = [moment for moment in raised_ns if 0 <= heard_ns - moment < _TEARDOWN_NS]
            self.failures[rank].timestamp_ns = min([heard_ns, *(moment - 1 for moment in just_before)])

    def _judge(self, rank: int, report: dict[str, Any]) -> ProcessFailure | None:
        """Whether and why this rank failed; None when its value is here."""
        if rank in self.values:
            return None
        word = self._words.get(rank)
        failed_ns = word.time_ns if word is not None and word.time_ns else report["time_ns"]
        code = report["code"]
        has_failed_itself = word is not None and not word.is_value and (not self.why or failed_ns <= self._why_ns)
        is_stopped = bool(report["why"]) and not has_failed_itself and rank not in self._unloadable
        is_stopped = is_stopped or rank in self._left
        if has_failed_itself and code < 0 and code != -signal.SIGINT:
            # It had failed already when our SIGTERM met it on its way out.
            code = -signal.SIGINT if _is_interrupt(word) else 1
        elif rank in self._unloadable and report["why"]:
            code = 0  # it had handed over its value when our SIGTERM met it
        failure = read_failure(
            local_rank=rank,
            pid=report["pid"],
            exitcode=code,
            error_file=self._error_files.get(rank, ""),
            time_ns=failed_ns,
            duration_s=time.monotonic() - self.started_at,
            exception=word.exception if word is not None else None,
            stacks_file=stacks_file(self._error_files, rank),
            is_stopped=is_stopped,
            note=self._unloadable.get(rank) or ("" if word is not None else exit_note(code)),
            memory=memory_state() if code == -signal.SIGKILL and not is_stopped else None,
        )
        failure.stacks = name_files(failure.stacks)
        return failure

    def finish(self) -> None:
        """All is over: what never reported died with its server (or was never forked)."""
        for rank in range(self._nprocs):
            if rank in self.exits or rank in self.values:
                continue
            pid = self.pids.get(rank, -1)
            report = {"rank": rank, "pid": pid, "code": -signal.SIGKILL, "time_ns": time.monotonic_ns(), "why": ""}
            failure = self._judge(rank, report)
            assert failure is not None
            failure.note = self.lost
            self.failures[rank] = failure
            self._emit(WorkerEnded(self._global(rank), rank, pid, -signal.SIGKILL, failure, self._settings.attempt))

    def _global(self, local_rank: int) -> int:
        ranks = self._settings.global_ranks
        return local_rank if ranks is None else ranks[local_rank]

    def _emit(self, event: Any) -> None:
        if self._settings.sink is not None:
            self._settings.sink(event)

    def _emit_note(self, text: str) -> None:
        self._emit(RunNote(text))


def stacks_file(error_files: Mapping[int, str], rank: int) -> str:
    """Where a rank's Python stacks go, beside its error file; empty without one."""
    error_file = error_files.get(rank, "")
    return os.path.join(os.path.dirname(error_file), "stacks.txt") if error_file else ""


def _is_interrupt(word: RankWord | None) -> bool:
    return word is not None and word.exception is not None and word.exception.type_name == "KeyboardInterrupt"


def signal_words(signum: int) -> str:
    """`SIGKILL`, or `signal 40` for one without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
