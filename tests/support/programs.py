"""What program workers do in the tests: `python -S programs.py WHAT [ARGUMENTS]`. Each runs in the test's folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

__all__ = ["PROGRAM"]

PROGRAM = __file__

if __name__ == "__main__":
    import families
    from gates import wait_at

    def end_with(code: int) -> None:
        """Exit with a code; a negative one: by that signal."""
        if code < 0:
            os.kill(os.getpid(), -code)
            signal.pause()
        sys.exit(code)

    def wait_then_end(gate: str, code: str) -> None:
        """End once the gate is open."""
        families.announce("rank")
        wait_at(gate)
        end_with(int(code))

    def trap_and_exit_0() -> None:
        """SIGTERM makes it end well."""
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
        families.block()

    def tell_signal() -> None:
        """Leave a file that names the signal that ended it."""

        def tell(signum: int, frame: object) -> None:
            families.announce(f"got-{signal.Signals(signum).name}")
            os._exit(0)

        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(signum, tell)
        families.block()

    def show(*arguments: str) -> None:
        """Arguments, environment and session as JSON."""
        said = {
            "arguments": arguments,
            "env": dict(os.environ),
            "is_leader": os.getsid(0) == os.getpid() == os.getpgrp(),
        }
        json.dump(said, sys.stdout)

    def say(*lines: str) -> None:
        """Each line on both streams, by name."""
        for line in lines:
            print("out", line)
            print("err", line, file=sys.stderr)

    def have_all_then(gate: str, code: str) -> None:
        """Start one child of every kind, end once the gate is open."""
        families.have_all()
        wait_then_end(gate, code)

    def leave_nameless_and_block() -> None:
        """A daemon without this rank's environment and session, whose parent is gone."""
        sleeper = "import os, signal; open(f'pid-hidden-{os.getpid()}', 'w').close(); signal.pause()"
        middle = os.fork()
        if middle == 0:
            subprocess.Popen([sys.executable, "-S", "-c", sleeper], env={}, start_new_session=True)
            os._exit(0)
        os.waitpid(middle, 0)
        families.block()

    WHAT: dict[str, Any] = {
        "block": families.block,
        "deaf": families.block_deaf,
        "have-all": families.have_all_and_block,
        "have-all-then": have_all_then,
        "nameless": leave_nameless_and_block,
        "say": say,
        "show": show,
        "tell-signal": tell_signal,
        "trap": trap_and_exit_0,
        "wait-then-end": wait_then_end,
    }
    WHAT[sys.argv[1]](*sys.argv[2:])
