"""`ipyelastic run`: a script, module or program on several ranks, waited for, with a shell's exit code.

    main > [here] > engines/run.Run  ->  console (fd 1 and 2);   signals -> [here] -> the ranks
                  > machines.py, when several take part

Runs in: owner (a shell's process), main thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Literal

from ..engines.cause import port_trouble
from ..engines.run import Run
from ..engines.scripts import check_script_options, find_module, find_script
from ..failures.read import take_traceback
from ..forkserver.handle import hand_on_stdin
from ..launcher.grammar import HelpWanted
from ..launcher.torchrun import Command, parse_command
from ..output import retention
from ..payload.program import Program
from ..payload.script import Script
from ..process.signals import DUMP_SIGNAL
from ..terms import env
from ..terms.errors import ChildFailedError, OptionError, RunStopped, RunTimedOut
from ..view.text import templated_prefix
from .console import Console
from .endings import WRONG_USAGE, exit_code, say, tell_failure
from .kept_logs import keeps_logs, kept_words
from .log_lines import log_lines
from .machines import run_on_machines
from .signals import HeardSignals

__all__ = ["run_command"]

_LOOK_AGAIN_S = 0.2
"""A signal that comes in the moment before a wait begins ends no wait: its handler runs when that has ended."""

_KILLING = (signal.SIGINT, signal.SIGQUIT)  # the second of these; a closed terminal may send SIGHUP twice by itself
_Word = int | Literal["ended", "written", "closed"]


def run_command(words: Sequence[str]) -> int:
    """Obey `ipyelastic run WORDS`; returns the exit code."""
    try:
        command = parse_command(words, os.environ)
        with log_lines():
            return _run(command)
    except HelpWanted as wanted:
        print(wanted, end="")
        return 0
    except OptionError as error:
        say(str(error))
        return WRONG_USAGE


def _run(command: Command) -> int:
    if not command.job.is_one_machine:
        code = run_on_machines(command)
    else:
        entrypoint = _entrypoint(command)
        options, notes = _fitted(command)
        code = _Waiting(dataclasses.replace(command, options=options), entrypoint, notes).run()
    with contextlib.suppress(OSError):  # a temp folder that cannot be read has nothing to sweep
        retention.sweep()
    return code


def _entrypoint(command: Command) -> Script | Program:
    """What every rank calls. Raises OptionError when it is not there."""
    if command.job.is_program:
        return _program(command.target, command.args)
    find = find_module if command.job.is_module else find_script
    return find(command.target, command.args)


def _program(name: str, args: tuple[str, ...]) -> Program:
    path = shutil.which(name)
    if path is None:
        if not os.path.exists(name):
            raise OptionError(f"--no-python {name}: no such program{'' if '/' in name else ' on PATH'}")
        more = "" if "/" in name else f"; a program here is ./{name}"
        raise OptionError(f"--no-python {name}: this is no file that can be executed{more}")
    return Program(os.path.abspath(path), (name, *args), ignored=(DUMP_SIGNAL,))


def _fitted(command: Command) -> tuple[Any, list[str]]:
    """The options as they suit a command line, and notes for the person."""
    options = command.options
    notes: list[str] = []
    if options.ui == "panel":
        raise OptionError("--ui panel: there is no page here; expected text or none")
    if options.start_method == "fork":
        # torchrun starts scripts as programs, whatever method it is given.
        options = dataclasses.replace(options, start_method="forkserver")
    check_script_options(options)
    if keeps_logs(command):
        with contextlib.suppress(OSError):  # the launch says it with what to do
            notes.append(kept_words(retention.owner_folder()))
    return options, notes


class _Waiting:
    """One run, and the main thread that waits for it: everything it must react to comes through one queue."""

    def __init__(self, command: Command, entrypoint: Callable[[], None], notes: list[str]) -> None:
        self._command, self._entrypoint, self._notes = command, entrypoint, notes
        self._words: SimpleQueue[_Word] = SimpleQueue()  # its `put` may interrupt its own `put`: made for signals
        self._heard: list[int] = []
        self._is_closed = self._is_abandoned = False

    def run(self) -> int:
        """To the end; the exit code."""
        command = self._command
        template = os.environ.get(env.LOG_LINE_PREFIX_TEMPLATE)
        with HeardSignals(command.job.signals, self._words.put):
            self._console = Console(
                command.options,
                command.job,
                templated_prefix(template, command.job.role),
                lambda: self._words.put("closed"),
            )
            run = self._started()
            run.add_done_callback(lambda _: self._words.put("ended"))
            self._wait_for(run)
            error = run.exception()
            self._console.close(lambda: self._words.put("written"))
            self._drain()
            if keeps_logs(command) and run.log_dir:
                retention.keep(run.log_dir)
            if error is not None:
                self._tell(run, error)
            return self._exit_code(error)

    def _started(self) -> Run[Any]:
        command, job = self._command, self._command.job
        hand_on_stdin()
        is_named = job.rdzv_id not in ("", "none") and not job.is_standalone
        rendezvous = ("127.0.0.1", 0)
        if not job.is_standalone:
            rendezvous = (job.master_addr or rendezvous[0], job.master_port or 0)
        return Run(
            self._entrypoint,
            (),
            command.options,
            sinks=[] if command.options.ui == "none" else [self._console],
            notes=self._notes,
            is_output_complete=True,
            rendezvous=rendezvous,
            run_id=job.rdzv_id if is_named else "",
            role=job.role,
        )

    def _wait_for(self, run: Run[Any]) -> None:
        while (word := self._next_word()) != "ended":
            if word == "closed":
                self._is_closed = True
                run.stop()
            elif isinstance(word, int):
                self._obey(run, word)

    def _next_word(self) -> _Word:
        while True:
            try:
                return self._words.get(timeout=_LOOK_AGAIN_S)
            except Empty:
                continue

    def _obey(self, run: Run[Any], signum: int) -> None:
        self._heard.append(signum)
        name = signal.Signals(signum).name
        if len(self._heard) == 1:
            grace_s = self._command.options.grace_s
            more = "; Ctrl-C kills them" if grace_s > 0 else ""
            self._console.say(f"ipyelastic run: {name}: the ranks have {grace_s:g} s to end{more}")
            run.stop(signum=signum)
        elif signum in _KILLING:
            run.kill()
            self._abandon()

    def _abandon(self) -> None:
        self._is_abandoned = True
        self._console.abandon()

    def _drain(self) -> None:
        """Wait until everything is written, unless a signal comes: then the reader is what keeps us."""
        while not self._is_abandoned and (word := self._next_word()) != "written":
            if word == "closed":
                self._is_closed = True
            elif isinstance(word, int):
                self._heard.append(word)
                self._abandon()

    def _tell(self, run: Run[Any], error: BaseException) -> None:
        if isinstance(error, RunStopped) and not isinstance(error, RunTimedOut):
            return  # its reason was told when it came
        if self._command.job.is_program and isinstance(error, ChildFailedError):
            for failure in error.failures.values():
                take_traceback(failure, failure.stderr_path)
        port = self._command.job.master_port
        if port and (trouble := port_trouble(error)):
            say(f"--master-port {port}: this port {trouble}; leave it out for one that is free")
        else:
            tell_failure(error, run.nproc, run.log_dir)

    def _exit_code(self, error: BaseException | None) -> int:
        if self._heard:
            return 128 + self._heard[0]
        return 128 + signal.SIGPIPE if self._is_closed else exit_code(error)
