"""Where each rank's output and error file go: log specifications with torch's names and tree.

    LogsSpecs.reify(envs) -> LogsDest -> contexts (paths), output/redirect (written), output/tail (read)

    <log_dir>/<run_id>_<random>/attempt_<n>/<local_rank>/{stdout.log,stderr.log,error.json,stacks.txt}

Runs in: agent.
Source: torch 2.13 (SEEDS section 1); folders are 0700 here, and `stacks.txt` is ours.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..terms import env
from ..terms.std import Std, to_map
from .next_folder import NextFolder

__all__ = ["LogsDest", "LogsSpecs", "DefaultLogsSpecs"]

logger = logging.getLogger("ipyelastic")

Redirects = Std | dict[int, Std]


@dataclass
class LogsDest:
    """Where everything of one attempt goes; paths by local rank. An empty path leaves that stream on the console.

    Attributes:
        stdouts, stderrs: Where each stream is written.
        tee_stdouts, tee_stderrs: Of these, the files that are copied to the console as they grow.
        error_files: Where each rank writes why it failed.
        filtered_stdout, filtered_stderr: One file each for the lines of all ranks that the duplicate filters pick.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)
    filtered_stdout: str = ""
    filtered_stderr: str = ""


class LogsSpecs(ABC):
    """Decides where logs go. Subclass it and return your own paths from `reify`.

    Args:
        log_dir: The folder below which logs go.
        redirects: Which streams go to files: one flag for all ranks, or `{local rank: flag}`.
        tee: Which go to files and to the console, likewise.
        local_ranks_filter: Ranks shown on the console; None or empty: all.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Redirects = Std.NONE,
        tee: Redirects = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        self._root_log_dir = log_dir
        self._redirects = redirects
        self._tee = tee
        self._local_ranks_filter = local_ranks_filter

    @abstractmethod
    def reify(self, envs: Mapping[int, dict[str, str]]) -> LogsDest:
        """Make the folders for one attempt of a run and say where everything goes.

        Args:
            envs: `{local rank: {name: value}}`: TORCHELASTIC_RUN_ID and TORCHELASTIC_RESTART_COUNT are there; the error
                file's name is to be put in.

        Returns:
            Paths of every rank in `envs`; a rank that is left out makes the context raise RuntimeError.
        """

    @property
    @abstractmethod
    def root_log_dir(self) -> str:
        """The folder below which all logs of these specifications go."""


class DefaultLogsSpecs(LogsSpecs):
    """Log files in one folder per run, attempt and rank: `<log_dir>/<run_id>_<random>/attempt_0/0/stdout.log`.

    Args:
        log_dir: Made when it is missing; None or empty: a new folder in the temporary one; `os.devnull`: no files.
        redirects, tee, local_ranks_filter: See LogsSpecs.

    `ready`: ours: folders that were made ahead, used by the first attempt of that run with that many ranks.

    Raises:
        NotADirectoryError: `log_dir` is a file.
        OSError: `log_dir` cannot be made or written to.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Redirects = Std.NONE,
        tee: Redirects = Std.NONE,
        local_ranks_filter: set[int] | None = None,
        *,
        ready: NextFolder | None = None,
    ) -> None:
        if log_dir != os.devnull:
            if not log_dir:
                log_dir = tempfile.mkdtemp(prefix="torchelastic_")
            elif not os.path.exists(log_dir):
                os.makedirs(log_dir, mode=0o700, exist_ok=True)
            elif not os.path.isdir(log_dir):
                raise NotADirectoryError(f"log_dir: {log_dir} is not a directory")
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
        self._run_log_dir: str | None = None
        self._ready = ready

    @property
    def root_log_dir(self) -> str:
        """The folder below which all logs of these specifications go."""
        return str(self._root_log_dir)

    @property
    def run_log_dir(self) -> str:
        """The folder of this run, below the root; empty before the first `reify`."""
        return self._run_log_dir or ""

    def _make_run_dir(self, run_id: str) -> str:
        base = self.root_log_dir
        # A run id may hold what a path may not; torch lets it escape the root.
        safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in run_id)
        return tempfile.mkdtemp(prefix=f"{safe}_", dir=base)

    def reify(self, envs: Mapping[int, dict[str, str]]) -> LogsDest:
        """See `LogsSpecs.reify`. Writes each rank's error file into its entry of `envs`, as torch does."""
        nprocs = len(envs)
        first = envs.get(0, {})
        if not envs:
            logger.debug("no ranks: using default run id and restart count")
        run_id = first.get(env.RUN_ID, "test_run_id")
        attempt = first.get(env.RESTART_COUNT, "0")
        redirects, tee = to_map(self._redirects, nprocs), to_map(self._tee, nprocs)
        shown = self._local_ranks_filter or set(range(nprocs))
        if self.root_log_dir == os.devnull:
            return self._to_null(envs, tee, shown)
        ready, self._ready = self._ready, None
        is_ready = ready is not None and (ready.run_id, ready.nprocs, attempt) == (run_id, nprocs, "0")
        if self._run_log_dir is None:
            self._run_log_dir = ready.path if ready is not None and is_ready else self._make_run_dir(run_id)
        attempt_dir = os.path.join(self._run_log_dir, f"attempt_{attempt}")
        if not is_ready:
            shutil.rmtree(attempt_dir, ignore_errors=True)
            os.makedirs(attempt_dir, mode=0o700)
        dest = LogsDest(
            filtered_stdout=os.path.join(attempt_dir, "filtered_stdout.log"),
            filtered_stderr=os.path.join(attempt_dir, "filtered_stderr.log"),
        )
        for rank in range(nprocs):
            folder = os.path.join(attempt_dir, str(rank))
            if not is_ready:
                os.makedirs(folder, mode=0o700)
            stdout, stderr = os.path.join(folder, "stdout.log"), os.path.join(folder, "stderr.log")
            to_file = redirects[rank] | tee[rank]
            console = "" if rank in shown else os.devnull
            dest.stdouts[rank] = stdout if to_file & Std.OUT else console
            dest.stderrs[rank] = stderr if to_file & Std.ERR else console
            if rank in shown:
                if tee[rank] & Std.OUT:
                    dest.tee_stdouts[rank] = stdout
                if tee[rank] & Std.ERR:
                    dest.tee_stderrs[rank] = stderr
            dest.error_files[rank] = os.path.join(folder, "error.json")
            envs[rank][env.ERROR_FILE] = dest.error_files[rank]
        return dest

    def _to_null(self, envs: Mapping[int, dict[str, str]], tee: dict[int, Std], shown: set[int]) -> LogsDest:
        dest = LogsDest()
        for rank in range(len(envs)):
            console = "" if rank in shown else os.devnull
            dest.stdouts[rank] = dest.stderrs[rank] = console
            if tee[rank] & Std.OUT and rank in shown:
                dest.tee_stdouts[rank] = os.devnull
            if tee[rank] & Std.ERR and rank in shown:
                dest.tee_stderrs[rank] = os.devnull
            dest.error_files[rank] = ""
            envs[rank][env.ERROR_FILE] = ""
        return dest

    def __repr__(self) -> str:
        return (
            f"DefaultLogsSpecs(root_log_dir={self._root_log_dir}, redirects={self._redirects}, tee={self._tee},"
            f" local_ranks_filter={self._local_ranks_filter})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DefaultLogsSpecs):
            return False
        return (self._root_log_dir, self._redirects, self._tee, self._local_ranks_filter) == (
            other._root_log_dir,
            other._redirects,
            other._tee,
            other._local_ranks_filter,
        )

    __hash__ = None  # type: ignore[assignment]  # as torch's: equal by value, and mutable
