"""`ipyelastic run`: what stands on stdout and stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.waiting import wait_until

pytestmark = pytest.mark.slow

Command = Callable[..., Any]
Script = Callable[..., str]

UP = """
def told(number, frame):
    os.write(1, f"got {signal.Signals(number).name}\\n".encode())  # the signal may come in the middle of a print
    os._exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, told)
print("up", os.getpid(), flush=True)
while True:
    signal.pause()
"""
DEAF = UP.replace("    os._exit(0)\n", "")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_output_is_complete_and_in_order_on_the_stream_it_was_written_to(command: Command, script: Script) -> None:
    script(
        """
for n in range(20_000):
    print("line", n)
    if n % 10_000 == 0:
        print("careful", n, file=sys.stderr)
"""
    )
    ended = command("run", "-n", "2", "train.py")
    assert ended.code == 0
    for rank in (0, 1):
        assert ended.lines_of(rank) == [f"line {n}" for n in range(20_000)]
    assert len(ended.out.splitlines()) == 40_000
    assert sorted(ended.err.splitlines()) == sorted(
        f"[rank {rank} stderr] careful {n}" for rank in (0, 1) for n in (0, 10_000)
    )


def test_the_first_failure_is_told_on_stderr_and_is_the_exit_code(command: Command, script: Script) -> None:
    script(
        """
if rank == 1:
    raise ValueError("bad batch")
signal.pause()
"""
    )
    ended = command("run", "--nproc_per_node=2", "train.py")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(
        r"\nrank 1 of 2 failed \(local_rank 1\)\n"
        r"  what    ValueError: bad batch \(\S+/train\.py, line 5\)\n"
        r"rank 0 was stopped because of it\n\n"
        r"Traceback \(most recent call last\):\n"
        r'  File "\S+/train\.py", line 5, in <module>\n'
        r'    raise ValueError\("bad batch"\)\n'
        r"ValueError: bad batch\n\n"
        r"log files: (\S+)\n",
        ended.err,
    )
    folder = Path(ended.err.split()[-1])
    assert (folder / "run.json").is_file()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(0)", 0),
        ("os._exit(0)", 0),
        ("sys.exit(7)", 7),
        ("os._exit(3)", 3),
        ("sys.exit('no data')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_exit_code_is_that_of_the_rank_or_128_and_its_signal(
    command: Command, script: Script, body: str, code: int
) -> None:
    script(body)
    assert command("run", "-n", "1", "train.py").code == code


def test_arguments_environment_and_main_are_those_of_a_script(command: Command, script: Script) -> None:
    script(
        """
import json
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "ROLE_NAME", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "A", "OMP_NUM_THREADS"]
print(json.dumps([sys.argv, __name__, sys.path[0], {name: os.environ.get(name) for name in names}]))
""",
        "below/train.py",
    )
    words = ["--rdzv-id=job7", "--role", "trainer", "--env", "A=b c", "below/train.py", "--nproc", "9", "-h", "x y"]
    ended = command("run", "-n", "2", *words)
    assert (ended.code, ended.err) == (0, "")
    for rank in (0, 1):
        argv, name, folder, environment = json.loads(ended.lines_of(rank)[0])
        assert argv == ["below/train.py", "--nproc", "9", "-h", "x y"]
        assert (name, os.path.basename(folder)) == ("__main__", "below")
        assert environment == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "ROLE_NAME": "trainer",
            "TORCHELASTIC_RUN_ID": "job7",
            "MASTER_ADDR": "127.0.0.1",
            "A": "b c",
            "OMP_NUM_THREADS": "1",
        }


def test_a_module_is_found_from_the_working_directory(command: Command, script: Script) -> None:
    script("print(__name__, sys.argv[1:], __package__)", "pkg/train.py")
    ended = command("run", "-m", "--nproc-per-node", "1", "pkg.train", "-m", "2")
    assert (ended.code, ended.out, ended.err) == (0, "[rank 0] __main__ ['-m', '2'] pkg\n", "")


def test_the_commands_own_folder_is_not_where_ranks_import_from(command: Command, script: Script) -> None:
    script("print('imported')", "beside.py")
    script("import beside", "below/train.py")
    ended = command("run", "below/train.py", env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    assert ended.code == 1
    assert "ModuleNotFoundError: No module named 'beside'" in ended.err


def test_a_program_runs_as_it_is_with_its_ranks_environment(command: Command) -> None:
    line = "echo $LOCAL_RANK of $WORLD_SIZE $0 $1; echo oh >&2"
    ended = command("run", "-n", "2", "--no-python", "sh", "-c", line, "-x", "y")
    assert (ended.code, sorted(ended.out.splitlines())) == (0, ["[rank 0] 0 of 2 -x y", "[rank 1] 1 of 2 -x y"])
    assert sorted(ended.err.splitlines()) == ["[rank 0 stderr] oh", "[rank 1 stderr] oh"]


def test_a_program_that_fails_and_its_time_limit_are_exit_codes(command: Command) -> None:
    ended = command("run", "--no-python", "sh", "-c", "exit 5")
    assert ended.code == 5
    assert "rank 0 of 1 failed (local_rank 0)\n  what    it exited with code 5 and left no traceback\n" in ended.err
    ended = command("run", "--timeout", "0.5", "--no-python", "sleep", "1000")
    assert ended.code == 124
    assert "RunTimedOut: the run was ended after its time limit of 0.5 s\n" in ended.err


def test_a_programs_own_traceback_is_shown_once_and_is_the_cause(command: Command, script: Script) -> None:
    script("raise ValueError('bad batch')")
    ended = command("run", "-n", "1", "--no-python", sys.executable, "train.py")
    assert ended.code == 1
    assert "rank 0 of 1 failed (local_rank 0)\n  what    ValueError: bad batch\n" in ended.err
    assert ended.err.count("Traceback (most recent call last)") == 1


def test_a_program_dies_of_a_closed_pipe_as_outside(command: Command) -> None:
    ended = command("run", "--no-python", "sh", "-c", "yes | head -n 1; echo ${PIPESTATUS:-done}")
    assert (ended.code, ended.out) == (0, "[rank 0] y\n[rank 0] done\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to run: give a script, -m MODULE or --no-python PROGRAM (ipyelastic run -h for help)"),
        (["--nprocs", "2", "x.py"], "--nprocs: no such option, did you mean --nproc?"),
        (["-n", "two", "x.py"], 'nproc=\'two\': expected a number, "cpu", "gpu" or "auto"'),
        (["trian.py"], "trian.py: no such file, did you mean train.py?"),
        (["-m", "trian"], "-m trian: no module trian, did you mean train?"),
        (["--no-python", "no-such-program"], "--no-python no-such-program: no such program on PATH"),
        (["--no-python", "./train.py"], "--no-python ./train.py: this is no file that can be executed"),
        (["-m", "--no-python", "x"], "-m and --no-python: give one of them"),
        (["--node-rank", "1", "x.py"], "--node-rank 1: expected 0 where there is one machine (--nnodes)"),
        (["--nnodes", "0", "x.py"], "--nnodes 0: expected 1 <= MIN <= MAX"),
        (["--nnodes", "3:2", "x.py"], "--nnodes 3:2: expected 1 <= MIN <= MAX"),
        (
            ["-t", "5", "x.py"],
            "-t 5: expected 0 (none), 1 (stdout), 2 (stderr) or 3 (both), or by rank, such as 0:1,1:3",
        ),
        (["--signals-to-handle", "SIGKILL", "train.py"], "--signals-to-handle: no process can answer SIGKILL"),
        (["--ui", "panel", "train.py"], "--ui panel: there is no page here; expected text or none"),
        (["--ranks", "2", "-n", "2", "train.py"], "--ranks 2: expected ranks from 0 to 1"),
        (["--rdzv-conf", "a", "x.py"], "--rdzv-conf a: expected NAME=VALUE, several joined by commas"),
        (["--master-port", "x", "x.py"], "--master-port x: expected a number from 0 to 65535"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(command: Command, script: Script, words: list[str], said: str) -> None:
    script("print('ran')")
    ended = command("run", *words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"ipyelastic run: {said}\n")


def test_torchruns_variables_are_defaults_and_what_is_typed_wins(command: Command, script: Script) -> None:
    script("print(os.environ['WORLD_SIZE'], os.environ['ROLE_NAME'], __name__)")
    defaults = {"PET_NPROC_PER_NODE": "2", "PET_ROLE": "pet", "PET_MODULE": "1", "PET_NNODES": "1", "PET_LOG_DIR": ""}
    ended = command("run", "--role", "typed", "train", env=defaults)
    assert sorted(ended.out.splitlines()) == ["[rank 0] 2 typed __main__", "[rank 1] 2 typed __main__"]
    ended = command("run", "train.py", env={"PET_MAX_RESTARTS": "many"})
    said = "ipyelastic run: PET_MAX_RESTARTS=many: max_restarts='many': expected a whole number, 0 or more\n"
    assert (ended.code, ended.err) == (2, said)


def test_a_number_of_spares_that_is_none_is_one_line(command: Command, script: Script) -> None:
    script("print('ran')")
    ended = command("run", "-n", "1", "train.py", env={"IPYELASTIC_SPARES": "-3"})
    said = "IPYELASTIC_SPARES='-3': expected how many ranks to fork ahead: a whole number, 0 for none"
    assert (ended.code, ended.out, ended.err) == (2, "", f"ipyelastic run: {said}\n")


def test_streams_that_are_redirected_are_in_files_only(command: Command, script: Script, tmp_path: Path) -> None:
    script("print('out', rank); print('err', rank, file=sys.stderr)")
    ended = command("run", "-n", "2", "-r", "0:3,1:1", "-t", "0:2", "--log-dir", "logs", "train.py")
    assert (ended.code, ended.out) == (0, "")
    assert sorted(ended.err.splitlines()) == ["[rank 0 stderr] err 0", "[rank 1 stderr] err 1"]
    (run,) = (tmp_path / "logs").iterdir()
    for rank in (0, 1):
        folder = run / "attempt_0" / str(rank)
        assert (folder / "stdout.log").read_text() == f"out {rank}\n"
        assert (folder / "stderr.log").read_text() == f"err {rank}\n"


KEPT = r"note: log files are kept in (\S+) for a week; --log-dir keeps them elsewhere, for good\n"


def test_redirection_without_a_folder_keeps_the_files_a_week_and_says_where(
    command: Command, script: Script, run_root: Path
) -> None:
    script("print('out', rank)")
    ended = command("run", "-n", "1", "-r", "3", "train.py")
    assert (ended.code, ended.out) == (0, "")
    (folder,) = re.fullmatch(KEPT, ended.err).groups()
    (file,) = Path(folder).glob("*/attempt_0/0/stdout.log")
    assert file.read_text() == "out 0\n"
    (run,) = Path(folder).glob("*/")
    os.utime(run, (0, 0))
    ended = command("run", "-n", "1", "train.py")
    assert (ended.code, ended.err, list(run_root.iterdir())) == (0, "", [])


def test_log_lines_have_their_level_and_time(command: Command, script: Script) -> None:
    script("print('ran')")
    ended = command("run", "-n", "1", "train.py", env={"LOGLEVEL": "info"})
    assert ended.code == 0
    lines = [line for line in ended.err.splitlines() if "starting workers for entrypoint: train.py" in line]
    assert re.fullmatch(r"ipyelastic run: INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[default\] .*", lines[0])
    ended = command("run", "-n", "1", "train.py", env={"LOGLEVEL": "loud"})
    said = "LOGLEVEL=loud: expected DEBUG, INFO, WARNING, ERROR or CRITICAL"
    assert (ended.code, ended.out, ended.err) == (2, "", f"ipyelastic run: {said}\n")


def test_ranks_filter_and_duplicate_filters(command: Command, script: Script, tmp_path: Path) -> None:
    script("print('loss 1'); print('step, 2'); print('noise'); print('error', file=sys.stderr)")
    words = ["--local_ranks_filter", "1", "--duplicate-stdout-filters", "loss,step,,", "--log-dir", "logs"]
    ended = command("run", "-n", "2", *words, "--duplicate_stderr_filters=error", "train.py")
    assert ended.out == "[rank 1] loss 1\n[rank 1] step, 2\n[rank 1] noise\n"
    (attempt,) = (tmp_path / "logs").glob("*/attempt_0")
    assert (attempt / "filtered_stdout.log").read_text() == "[rank 1] loss 1\n[rank 1] step, 2\n"
    assert (attempt / "filtered_stderr.log").read_text() == "[rank 1 stderr] error\n"


def test_log_line_prefix_template_is_torchs(command: Command, script: Script) -> None:
    script("print('out')")
    template = {"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "${role_name}/${rank}: "}
    assert command("run", "train.py", env=template).out == "default/0: out\n"


def test_a_port_in_use_is_named_in_one_line(command: Command, script: Script) -> None:
    script("print('ran')")
    with socket.socket() as held:
        held.bind(("", 0))
        held.listen()
        port = held.getsockname()[1]
        ended = command("run", "-n", "1", "--master_port", str(port), "train.py")
    said = f"ipyelastic run: --master-port {port}: this port is in use; leave it out for one that is free\n"
    assert (ended.code, ended.out, ended.err) == (1, "", said)


# ------------------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"])
def test_signal_reaches_every_rank_ends_the_run_and_is_the_exit_code(start: Command, script: Script, name: str) -> None:
    script(UP)
    number = signal.Signals[name]
    started = start("run", "-n", "2", "--signals-to-handle", "SIGUSR1", "train.py")
    pids = [int(started.line().split()[-1]) for _ in range(2)]
    started.signal(number)
    ended = started.end()
    assert ended.code == 128 + number
    assert sorted(ended.out.splitlines()) == [f"[rank 0] got {name}", f"[rank 1] got {name}"]
    assert ended.err == f"ipyelastic run: {name}: the ranks have 30 s to end; Ctrl-C kills them\n"
    assert not any(map(is_alive, pids))


def test_second_ctrl_c_kills_ranks_that_do_not_end(start: Command, script: Script) -> None:
    script(DEAF)
    started = start("run", "-n", "2", "--shutdown-timeout", "1000", "train.py")
    pids = [int(started.line().split()[-1]) for _ in range(2)]
    started.signal(signal.SIGINT)
    assert {started.line(), started.line()} == {"[rank 0] got SIGINT", "[rank 1] got SIGINT"}
    started.signal(signal.SIGINT)
    assert started.end().code == 130
    assert not any(map(is_alive, pids))


def test_signal_that_nohup_ignores_stays_ignored(start: Command, script: Script, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script("print('up', flush=True); open('gate').read(); print('went on')")
    started = start("run", "-n", "1", "train.py", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert started.line() == "[rank 0] up"
    started.signal(signal.SIGHUP)
    gate.write_text("")
    ended = started.end()
    assert (ended.code, ended.out, ended.err) == (0, "[rank 0] went on\n", "")


def test_grandchildren_go_with_the_run(start: Command, script: Script) -> None:
    script(
        """
import subprocess
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("up", child.pid, flush=True)
signal.pause()
"""
    )
    started = start("run", "-n", "1", "train.py")
    pid = int(started.line().split()[-1])
    started.signal(signal.SIGTERM)
    assert started.end().code == 143
    assert not is_alive(pid)


def test_killed_command_leaves_nobody_behind(start: Command, script: Script) -> None:
    script(UP)
    started = start("run", "-n", "2", "train.py")
    pids = [int(started.line().split()[-1]) for _ in range(2)]
    started.signal(signal.SIGKILL)
    started.end()
    wait_until(lambda: not any(map(is_alive, pids)), within_s=20)


def test_a_reader_that_goes_away_ends_the_run_without_a_traceback(start: Command, script: Script) -> None:
    script("print(os.getpid(), flush=True)\nwhile True: print('y' * 100)")
    started = start("run", "-n", "2", "train.py")
    first = started.line()
    started.process.stdout.close()
    assert started.process.wait(timeout=90) == 141
    assert started.process.stderr.read() == ""
    pid = int(first.split()[-1]) if first.split()[-1].isdigit() else 0
    assert not pid or not is_alive(pid)


def test_a_reader_that_does_not_read_holds_up_neither_ranks_nor_ctrl_c(
    start: Command, script: Script, tmp_path: Path
) -> None:
    script("for n in range(300_000): print('y' * 100)\nopen('done', 'w').close()\nsignal.pause()")
    started = start("run", "-n", "1", "train.py")
    wait_until(lambda: (tmp_path / "done").exists(), within_s=60)
    started.signal(signal.SIGINT)
    assert "SIGINT: the ranks have 30 s to end" in started.process.stderr.readline()
    started.signal(signal.SIGINT)
    assert started.process.wait(timeout=60) == 130


def test_without_stdout_it_runs_all_the_same(script: Script, tmp_path: Path) -> None:
    script("open('ran', 'w').close(); print('to nobody')")
    line = 'exec "$0" -m ipyelastic run -n 1 train.py >&-'
    ended = subprocess.run(["sh", "-c", line, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "ran").exists()
