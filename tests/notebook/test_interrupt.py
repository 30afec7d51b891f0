"""Interrupts and stops: every rank gone, KeyboardInterrupt in the cell, and the kernel as it was before."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kernels import Kernel
from support.left import is_running
from support.waiting import wait_until


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.fixture
def gates(notebook_folder: Path, tmp_path: Path, kernel: Kernel) -> Iterator[Path]:
    """A folder in which ranks say where they are; the notebook knows it as `gates`."""
    assert kernel.run(f"import pathlib\ngates = pathlib.Path({str(tmp_path)!r})").ok
    yield tmp_path
    assert kernel.run("%%elastic_run -n 2\nrank").value == "[0: 0, 1: 1]"


def pids(gates: Path, name: str, count: int = 2) -> list[int]:
    """Wait until `count` ranks have said `name`; their process ids."""
    wait_until(lambda: len([p for p in gates.glob(f"{name}-*") if p.read_text()]) == count, 20, f"{count} x {name}")
    return [int(path.read_text()) for path in gates.glob(f"{name}-*")]


def here(name: str) -> str:
    """Code by which a rank says where it is."""
    return f"(gates / f'{name}-{{rank}}').write_text(str(os.getpid()))"


WAITS = f"import os, signal\n{here('up')}\nsignal.pause()"


def test_interrupt_ends_every_rank_and_the_cell(kernel: Kernel, gates: Path) -> None:
    kernel.run("import signal\nbefore = signal.getsignal(signal.SIGINT)")
    sent = kernel.send(f"%%elastic_run -n 2\nprint('working')\n{WAITS}")
    ranks = pids(gates, "up")
    kernel.interrupt()
    result = kernel.collect(sent, 10)
    assert (result.error_name, result.error_value) == ("KeyboardInterrupt", "all 2 ranks were stopped")
    assert sorted(result.out.splitlines()) == ["[rank 0] working", "[rank 1] working"]
    assert not [pid for pid in ranks if is_running(pid)]
    assert kernel.value("signal.getsignal(signal.SIGINT) is before") is True
    assert kernel.value("__import__('ipyelastic').last_run().status") == "stopped"


def test_interrupted_cell_shows_no_frames_of_ours(kernel: Kernel, gates: Path) -> None:
    sent = kernel.send(f"%%elastic_run -n 2\n{WAITS}")
    pids(gates, "up")
    kernel.interrupt()
    result = kernel.collect(sent, 10)
    assert result.error_name == "KeyboardInterrupt"
    assert "ipyelastic/notebook" not in result.traceback


def test_interrupt_reaches_ranks_that_wait_in_a_subprocess(kernel: Kernel, gates: Path) -> None:
    body = "import os, subprocess\nchild = subprocess.Popen(['sleep', '300'])\n"
    body += "(gates / f'child-{rank}').write_text(str(child.pid))\n" + here("up") + "\nchild.wait()"
    sent = kernel.send(f"%%elastic_run -n 2\n{body}")
    ranks = pids(gates, "up") + pids(gates, "child")
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]


def test_twenty_interrupts_in_a_tenth_of_a_second_are_one_end(kernel: Kernel, gates: Path) -> None:
    kernel.run("import signal\nbefore = signal.getsignal(signal.SIGINT)")
    sent = kernel.send(f"%%elastic_run -n 2\n{WAITS}")
    ranks = pids(gates, "up")
    pace = threading.Event()
    for _ in range(20):
        kernel.interrupt()
        pace.wait(0.005)
    assert kernel.collect(sent, 20).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]
    assert kernel.value("signal.getsignal(signal.SIGINT) is before") is True


def test_bursts_that_outlast_the_cell_leave_the_kernel_alive(kernel: Kernel, gates: Path) -> None:
    pace = threading.Event()
    for _ in range(12):
        sent = kernel.send(f"%%elastic_run -n 1\n{WAITS}")
        pids(gates, "up", 1)
        for _ in range(40):
            kernel.interrupt()
            pace.wait(0.001)
        assert kernel.collect(sent, 20).error_name == "KeyboardInterrupt"
        (gates / "up-0").unlink()
    assert kernel.value("1 + 1") == 2


def test_second_interrupt_kills_ranks_that_do_not_end_when_asked(kernel: Kernel, gates: Path) -> None:
    body = "import os, signal\n"
    body += f"def asked(signum, frame):\n    {here('asked')}\nsignal.signal(signal.SIGTERM, asked)\n"
    body += here("up") + "\nwhile True:\n    signal.pause()"
    sent = kernel.send(f"%%elastic_run -n 2 --grace 100\n{body}")
    ranks = pids(gates, "up")
    kernel.interrupt()
    pids(gates, "asked")
    assert all(is_running(pid) for pid in ranks)
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]


@pytest.mark.slow
def test_ranks_that_do_not_end_when_asked_are_killed_after_the_grace(kernel: Kernel, gates: Path) -> None:
    body = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"{here('up')}\nwhile True:\n    signal.pause()"
    )
    sent = kernel.send(f"%%elastic_run -n 2 --grace 0.5\n{body}")
    ranks = pids(gates, "up")
    kernel.interrupt()
    assert kernel.collect(sent, 20).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]


def test_stop_signal_is_what_ranks_are_asked_with(kernel: Kernel, gates: Path) -> None:
    body = "import os, signal, sys\n"
    body += "def asked(signum, frame):\n    print('asked by', signal.Signals(signum).name)\n    sys.exit(4)\n"
    body += f"signal.signal(signal.SIGUSR1, asked)\n{here('up')}\nsignal.pause()"
    sent = kernel.send(f"%%elastic_run -n 1 --stop-signal USR1\n{body}")
    pids(gates, "up", 1)
    kernel.interrupt()
    result = kernel.collect(sent, 10)
    assert (result.error_name, result.out) == ("KeyboardInterrupt", "[rank 0] asked by SIGUSR1\n")


def test_interrupt_while_the_call_is_packed(kernel: Kernel, gates: Path) -> None:
    code = (
        "import threading\nclass SlowToPack:\n    def __reduce__(self):\n        (gates / 'pack-0').write_text('1')\n"
    )
    code += "        while not (gates / 'go').exists(): threading.Event().wait(0.005)\n        return int, (1,)\n"
    assert kernel.run(code + "slow_to_pack = SlowToPack()").ok
    sent = kernel.send(f"%%elastic_run -n 2\nimport os\n{here('up')}\nslow_to_pack")
    pids(gates, "pack", 1)
    kernel.interrupt()
    (gates / "go").touch()
    result = kernel.collect(sent, 20)
    assert result.error_name == "KeyboardInterrupt", result.text


def test_interrupt_while_ranks_load_the_call(kernel: Kernel, gates: Path) -> None:
    code = (
        "import os, signal\ndef load_slowly():\n"
        "    (gates / f\"load-{os.environ['RANK']}\").write_text(str(os.getpid()))\n"
    )
    code += (
        "    signal.pause()\nclass SlowToLoad:\n"
        "    def __reduce__(self): return load_slowly, ()\nslow_to_load = SlowToLoad()"
    )
    assert kernel.run(code).ok
    sent = kernel.send("%%elastic_run -n 2\nslow_to_load")
    ranks = pids(gates, "load")
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]


def test_interrupt_of_plain_fork_ends_its_ranks(kernel: Kernel, gates: Path) -> None:
    sent = kernel.send(f"%%elastic_run -n 2 --start-method fork\n{WAITS}")
    ranks = pids(gates, "up")
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert not [pid for pid in ranks if is_running(pid)]


def test_interrupt_aborts_the_queued_cells(kernel: Kernel, gates: Path) -> None:
    kernel.run("queued_ran = False")
    sent = kernel.send(f"%%elastic_run -n 2\n{WAITS}")
    kernel.send("queued_ran = True")
    pids(gates, "up")
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert kernel.value("queued_ran") is False


# ---------------------------------------------------------------------------------------------------------------- stop


LAUNCH = f"""
import ipyelastic, os
def waits():
    rank = os.environ['RANK']
    {here("up")}
    import signal; signal.pause()
run = ipyelastic.launch(waits, nproc=2)
"""


@pytest.mark.parametrize("wanted", ["", " all", " {run.run_id}"])
def test_elastic_stop_ends_a_launched_run(kernel: Kernel, gates: Path, wanted: str) -> None:
    assert kernel.run(LAUNCH).ok
    ranks = pids(gates, "up")
    word = wanted.format(run="") if "run" not in wanted else " " + kernel.value("run.run_id")
    result = kernel.run(f"%elastic_stop{word}")
    assert re.fullmatch(r"<Run [0-9a-f]{8}: waits on 2 ranks, stopped, \d+\.\d s>\n", result.out), result.text
    assert not [pid for pid in ranks if is_running(pid)]
    assert kernel.value("run.status") == "stopped"
    assert kernel.run("run.result()").error_name == "RunStopped"


def test_elastic_stop_of_one_run_leaves_the_other(kernel: Kernel, gates: Path) -> None:
    assert kernel.run(LAUNCH + "other = ipyelastic.launch(lambda: os.read(os.pipe()[0], 1), nproc=1)\n").ok
    pids(gates, "up")
    kernel.run(f"%elastic_stop {kernel.value('run.run_id')}")
    assert kernel.value("(run.done(), other.done())") == (True, False)
    kernel.run("%elastic_stop")
    assert kernel.value("(run.status, other.status)") == ("stopped", "stopped")


def test_interrupted_wait_for_a_launched_run_leaves_it_running(kernel: Kernel, gates: Path) -> None:
    assert kernel.run(LAUNCH).ok
    ranks = pids(gates, "up")
    sent = kernel.send("print('waiting')\nrun.result()")
    kernel.collect(sent, until="waiting")
    kernel.interrupt()
    assert kernel.collect(sent, 10).error_name == "KeyboardInterrupt"
    assert all(is_running(pid) for pid in ranks)
    kernel.run("%elastic_stop")
    assert not [pid for pid in ranks if is_running(pid)]


# ------------------------------------------------------------------------------------------------------- what is left

_LOOK = """
def look():
    import glob, os, tempfile, threading
    fds = []
    for fd in os.listdir('/proc/self/fd'):
        try: fds.append((int(fd), os.readlink(f'/proc/self/fd/{fd}')))
        except OSError: pass
    names = sorted(thread.name for thread in threading.enumerate())
    temp = sorted(name for name in os.listdir(tempfile.gettempdir()) if name.startswith(('torchelastic_', 'pymp-')))
    children = sorted(open(f'/proc/self/task/{os.getpid()}/children').read().split())
    fds = [fd for fd in fds if '/proc/' not in fd[1] and 'history.sqlite' not in fd[1]]  # IPython's, there and gone
    from ipyelastic.forkserver.client import servers
    ready = {end.fileno() for _, end in servers()._current._handover._ready}  # ways to the ranks that wait for a call
    ahead = servers()._ahead
    if ahead is not None:  # and what they were told
        ready |= {*ahead.delivery._held, ahead.values.fileno(), ahead.status}
    fds = [fd for fd in fds if fd[0] not in ready]
    return (sorted(fds), names, temp, children)

def more():  # than there was: `had` may hold what was just about to go
    from collections import Counter
    return [list(Counter(now) - Counter(before)) for now, before in zip(look(), had)]
"""


@pytest.mark.parametrize("ending", ["interrupted", "failed", "succeeded", "stopped"])
def test_kernel_holds_what_it_held_before(kernel: Kernel, gates: Path, tmp_path: Path, ending: str) -> None:
    # A folder of its own for temporary files: in /tmp others come and go.
    kernel.run(f"import os, tempfile\nos.environ['TMPDIR'] = tempfile.tempdir = {str(tmp_path)!r}")
    kernel.run(_LOOK)
    kernel.run("%%elastic_run -n 2\nrank")
    kernel.run("had = look()")
    if ending == "interrupted":
        sent = kernel.send(f"%%elastic_run -n 2\n{WAITS}")
        pids(gates, "up")
        kernel.interrupt()
        kernel.collect(sent, 10)
    elif ending == "stopped":
        kernel.run(LAUNCH)
        pids(gates, "up")
        kernel.run("%elastic_stop\ndel run")
    else:
        kernel.run("%%elastic_run -n 2\n" + ("1 / 0" if ending == "failed" else "rank"))
    # ipykernel closes the sockets of threads that published (a run's display) in a round of its own, every 10 s.
    wait_until(lambda: not any(kernel.value("more()")), 40, "the kernel to be as it was")
