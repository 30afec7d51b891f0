"""One program worker: torch's `SubprocessHandler` and its factory.

    commands > [here] > subprocess.Popen, in a session of its own

Runs in: agent.
Source: torch 2.13 (SEEDS section 5). Different: `close` on a finished process is silent, files are closed when the
process ends or could not be started, closing waits for nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from subprocess import Popen
from typing import IO, Any

from ..devices.numa import NumaOptions, _maybe_wrap_command_args_with_numa_binding
from .base import default_signal

__all__ = ["SubprocessHandler", "get_subprocess_handler", "Popen"]


class SubprocessHandler:
    """A started program.

    Args:
        entrypoint: The program's path, or a name on PATH.
        args: Its arguments; each is turned into text.
        env: Laid over this process's environment.
        stdout: A file to write its standard output to, truncated; empty or None: this process's own.
        stderr: Likewise.
        local_rank_id: Its local rank.
        numa_options: Bind it to the CPUs near its GPU (`numactl` is put in front).

    Attributes:
        proc: The Popen object.
        local_rank_id: As given.

    Raises:
        FileNotFoundError, PermissionError: The program is missing, or not executable.
        TypeError: An environment value is not text.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/subprocess_handler.html.
    """

    def __init__(
        self,
        entrypoint: str,
        args: tuple[Any, ...],
        env: Mapping[str, str],
        stdout: str | None,
        stderr: str | None,
        local_rank_id: int,
        numa_options: NumaOptions | None = None,
    ) -> None:
        self._stdout: IO[Any] | None = None
        self._stderr: IO[Any] | None = None
        try:
            self._stdout = open(stdout, "w") if stdout else None
            self._stderr = open(stderr, "w") if stderr else None
            env_vars = {**os.environ, **env}
            command = (entrypoint, *(str(arg) for arg in args))
            wrapped = _maybe_wrap_command_args_with_numa_binding(
                command, gpu_index=local_rank_id, numa_options=numa_options
            )
            self.local_rank_id = local_rank_id
            self.proc: Popen[Any] = self._popen(tuple(wrapped), env_vars)
        except BaseException:
            self.close_files()
            raise

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Popen[Any]:
        """Start it; tests and plug-ins replace this."""
        kwargs: dict[str, Any] = {} if os.name == "nt" else {"start_new_session": True}
        return Popen(args=args, env=env, stdout=self._stdout, stderr=self._stderr, **kwargs)

    def close(self, death_sig: signal.Signals | None = None) -> None:
        """Signal its process group with `death_sig` (None: SIGTERM), close the log files. Silent when it has ended."""
        self.send_signal(death_sig or default_signal())
        self.close_files()

    def send_signal(self, signum: signal.Signals) -> None:
        """Send `signum` to its process group. Silent when it has ended."""
        try:
            if self.proc.returncode is not None:
                pass  # reaped: its number may be somebody else's by now
            elif os.name == "nt":
                self.proc.send_signal(signum)
            else:
                os.killpg(self.proc.pid, signum)
        except (ProcessLookupError, PermissionError):
            pass  # nobody of the group is left (or it runs as somebody else by now)

    def close_files(self) -> None:
        """Close our ends of the log files; the program has its own. Idempotent."""
        for file in (self._stdout, self._stderr):
            if file is not None:
                file.close()


def get_subprocess_handler(
    entrypoint: str,
    args: tuple[Any, ...],
    env: Mapping[str, str],
    stdout: str | None,
    stderr: str | None,
    local_rank_id: int,
    numa_options: NumaOptions | None = None,
) -> SubprocessHandler:
    """Start one program worker.

    Args:
        entrypoint, args, env, stdout, stderr, local_rank_id, numa_options: See SubprocessHandler.

    Returns:
        The started program.

    Raises what SubprocessHandler raises.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/subprocess_handler.html.
    """
    return SubprocessHandler(
        entrypoint=entrypoint,
        args=args,
        env=env,
        stdout=stdout,
        stderr=stderr,
        local_rank_id=local_rank_id,
        numa_options=numa_options,
    )
