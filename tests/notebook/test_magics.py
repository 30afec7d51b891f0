"""The magics' options and words: what is taken, what is refused and how, help, status, loading and unloading."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.kernels import Kernel
from support.left import is_running, marked_processes
from support.waiting import wait_until

Ranks = Callable[..., list[object]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


ONE_LINE = "nothing to run on this line: add an expression, or write %%elastic_run, two %, for the lines below it"
NPROC = 'expected a number, "cpu", "gpu" or "auto"'


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-n 0", "nproc=0: expected 1 to 1024 ranks"),
        ("-n -1", "nproc=-1: expected 1 to 1024 ranks"),
        ("-n 10000", "nproc=10000: expected 1 to 1024 ranks"),
        ("-n gpus", f"nproc='gpus': {NPROC}, did you mean gpu?"),
        ("-n 2.0", f"nproc='2.0': {NPROC}"),
        ("-n two", f"nproc='two': {NPROC}"),
        ("--nprco 2", "--nprco: no such option, did you mean --nproc?"),
        ("--nprco=2", "--nprco: no such option, did you mean --nproc?"),
        ("-z", "-z: no such option"),
        ("-nproc 2", "-nproc: no such option, did you mean --nproc?"),
        ("-np 2", "-np: no such option, did you mean -n?"),
        ("--timeout soon", "timeout='soon': expected seconds, more than 0"),
        ("--timeout 0", "timeout='0': expected seconds, more than 0"),
        ("--timeout nan", "timeout='nan': expected seconds, more than 0"),
        ("--grace -1", "grace='-1': expected seconds, 0 or more"),
        ("--seed 1.5", "seed='1.5': expected a whole number"),
        ("--seed -1", "seed=-1: expected a whole number, 0 or more"),
        ("--start-method frok", "start_method='frok': expected forkserver, spawn or fork, did you mean fork?"),
        ("--env A", "--env 'A': expected NAME=VALUE"),
        ("--env =x", "--env '=x': expected NAME=VALUE"),
        ("--env 'A=b c", '"--env \'A=b c": no closing quotation'),
        ("--ranks a", "--ranks 'a': expected ranks such as 0,2-3"),
        ("--ranks 3-1", "--ranks '3-1': expected ranks such as 0,2-3"),
        ("-n 2 --ranks 0,7", "--ranks 0,7: expected ranks from 0 to 1"),
        (
            "--stop-signal SIGTREM",
            "signal 'SIGTREM': expected a name such as SIGTERM, SIGINT or SIGUSR1, did you mean SIGTERM?",
        ),
        ("--stop-signal 999", "signal '999': expected a name such as SIGTERM or a number from 1 to 64"),
        ("-o 1x", "-o '1x': expected a variable's name"),
        ("-o class", "-o 'class': expected a variable's name"),
        ("-n 2 foo", "'foo': code goes below the %%elastic_run line, options on it"),
        ("2", "'2': code goes below the %%elastic_run line, options on it, did you mean --nproc 2?"),
        ("nproc=2", "'nproc=2': code goes below the %%elastic_run line, options on it, did you mean --nproc 2?"),
        (
            "start_method=spawn",
            "'start_method=spawn': code goes below the %%elastic_run line, options on it,"
            " did you mean --start-method spawn?",
        ),
        ("x=2", "'x=2': code goes below the %%elastic_run line, options on it"),
        ("--nproc", "--nproc: expected a value, for example --nproc 4"),
        ("--nproc-per-node", "--nproc-per-node: expected a value, for example --nproc-per-node 4"),
        ("-n", "-n: expected a value, for example -n 4"),
        ("--gpus 0,1x", "gpus='0,1x': expected GPU numbers such as 0,2-3, or free"),
        ("--max-restarts two", "max_restarts='two': expected a whole number, 0 or more"),
        ("--ui=txt", "ui='txt': expected auto, panel, text or none, did you mean text?"),
        ("--engine ray", "engine='ray': not yet (many machines are not there yet)"),
        ("--nnodes 2", "--nnodes 2: not yet (many machines); 1 is taken"),
        ("-n 2 \\", "\\ at the end of the %%elastic_run line: options stand on one line, code below it"),
        ("\\  ", "\\ at the end of the %%elastic_run line: options stand on one line, code below it"),
        ("--numa nodes", "numa='nodes': expected node, socket, exclusive or core-complex, did you mean node?"),
        ("--vitual-local-rank", "--vitual-local-rank: no such option, did you mean --virtual-local-rank?"),
    ],
)
def test_option_that_cannot_be_taken_is_refused_in_one_line(kernel: Kernel, options: str, words: str) -> None:
    result = kernel.run(f"%%elastic_run {options}\nprint('ran')")
    assert (result.out, result.traceback) == (f"UsageError: {words}\n", "")


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_gpu_ranks_without_a_gpu_are_refused(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n gpu\n1")
    assert result.out == "UsageError: nproc='gpu': no GPU is visible here; give a number, or 'cpu'\n"
    result = kernel.run("%%elastic_run --gpus 0,2\n1")
    assert result.out == "UsageError: --gpus 0,2: there is no GPU 0; no GPU is visible here\n"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%elastic_run", ONE_LINE),
        ("%elastic_run -n 2", ONE_LINE),
        ("%elastic_run --nproc 2\nprint(rank)", ONE_LINE),
        ("%%elastic_run -n 1\nx = 1\n%time x", "line 3: %time works in the notebook only, "
            "not inside a rank; move it to a "
         "cell of its own"),
        ("%%elastic_run -n 1\n\nx = %pwd", "line 3: %pwd works in the notebook only, "
            "not inside a rank; move it to a cell "
         "of its own"),
        ("%%elastic_run -n 1\nlen?", "line 2: ? looks things up in the notebook; it has no place in a rank"),
        ("%elastic_stop nope", "nope: no run of that id is alive; %elastic_status lists them"),
        ("%elastic_logs 99", "99: expected a rank from 0 to 0"),
        ("%elastic_logs x", "x: expected a rank from 0 to 0"),
    ],
)  # fmt: skip
def test_use_that_makes_no_sense_is_refused_in_one_line(kernel: Kernel, cell: str, words: str) -> None:
    kernel.run("%elastic_run -n 1 1")
    result = kernel.run(cell)
    assert (result.out, result.traceback) == (f"UsageError: {words}\n", "")


def test_empty_body_is_refused_by_name(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2\n")
    assert result.out.startswith("UsageError: %%elastic_run is a cell magic, but the cell body is empty.")


@pytest.mark.parametrize(
    "options",
    [
        "-n 2",
        "-n=2",
        "-n2",
        "--nproc 2",
        "--nproc=2",
        "--nproc-per-node=2",
        "--num-processes 2",
        "-n '2'",
        "  -n   2  ",
    ],
)
def test_number_of_ranks_may_be_spelt_in_many_ways(ranks: Ranks, options: str) -> None:
    assert ranks("world_size", options) == [2, 2]


def test_default_and_words_for_the_number_say_what_they_chose(kernel: Kernel) -> None:
    import os

    cpus = len(os.sched_getaffinity(0))
    assert kernel.run("%%elastic_run -n cpu\nx = 1").out == f"note: nproc={cpus}: one rank per CPU\n"
    if not Path("/dev/nvidia0").exists():
        assert kernel.run("%elastic_run rank").out == "note: one rank: no GPU is visible and no number was given\n"


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ("--env A=1", "A", "1"),
        ("--env A='x y'", "A", "x y"),
        ('--env "A=x y"', "A", "x y"),
        ("--env A=b=c", "A", "b=c"),
        ("--env A=", "A", ""),
        ("--env A=1 --env B=2", "B", "2"),
        ("--env A=1 --env A=2", "A", "2"),
        ("--env=A=1", "A", "1"),
        ("--env A={rank}$HOME", "A", "{rank}$HOME"),
        ("--env A=-x", "A", "-x"),
        ("--env PATH=/nowhere", "PATH", "/nowhere"),
    ],
)
def test_environment_is_set_as_quoted(ranks: Ranks, options: str, name: str, value: str) -> None:
    assert ranks(f"import os\nos.environ.get({name!r})", f"-n 1 {options}") == [value]


def test_name_that_is_read_at_import_means_spawn_and_says_so(kernel: Kernel) -> None:
    result = kernel.run(
        "%%elastic_run -n 1 --env PYTHONHASHSEED=7 --env MKL_X=1\n"
        "import os, sys\nhash('a'), sys.flags.hash_randomization"
    )
    assert result.ok, result.text
    assert result.out == (
        "note: start method spawn for this run: MKL_X, PYTHONHASHSEED is read when a process starts or imports its "
        "libraries\n"
    )
    run = [sys.executable, "-c", "print(hash('a'))"]
    expected = subprocess.run(run, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True).stdout
    assert result.value is not None
    assert expected.strip() in result.value


def test_thread_number_does_not_need_spawn(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1 --env OMP_NUM_THREADS=2\nimport os\nos.environ['OMP_NUM_THREADS']")
    assert (result.out, result.value) == ("", "[0: '2']")


def test_out_stores_the_values_under_a_name(kernel: Kernel) -> None:
    assert kernel.run("%%elastic_run -n 2 -o stored\nNone").value is None
    assert kernel.value("list(stored)") == [None, None]
    kernel.run("%%elastic_run -n 2 --out stored\nrank;")
    assert kernel.value("list(stored)") == [0, 1]
    kernel.run("%%elastic_run -n 1 -o stored\n1 / 0")
    assert kernel.value("list(stored)") == [0, 1]


def test_log_dir_is_made_and_kept(kernel: Kernel, tmp_path: Path) -> None:
    where = tmp_path / "not" / "yet"
    assert kernel.run(f"%%elastic_run -n 2 --log-dir {where}\nprint('kept', rank)").ok
    texts = {path.parent.name: path.read_text() for path in where.glob("*/attempt_0/*/stdout.log")}
    assert texts == {"0": "kept 0\n", "1": "kept 1\n"}
    assert kernel.run(f"%%elastic_run -n 1 --log-dir {where}\n1").ok
    assert len(list(where.iterdir())) == 2


def test_log_dir_is_relative_to_the_notebook(kernel: Kernel, notebook_folder: Path) -> None:
    assert kernel.run("%%elastic_run -n 1 --log-dir logs\nprint('x')").ok
    assert len(list((notebook_folder / "logs").glob("*/attempt_0/0/stdout.log"))) == 1


def test_log_dir_that_cannot_be_is_refused_in_one_line(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for where in (tmp_path / "file", "/proc/nothing"):
        result = kernel.run(f"%%elastic_run -n 1 --log-dir {where}\n1")
        assert re.fullmatch(rf"UsageError: log_dir='?{re.escape(str(where))}'?: [^\n]+\n", result.out), result.text


@pytest.mark.parametrize(
    "line", ["%%elastic_run -h\n1", "%%elastic_run --help\n1", "%elastic_run -h", "%elastic_run -n 2 -h"]
)
def test_help_names_every_option(kernel: Kernel, line: str) -> None:
    result = kernel.run(line)
    assert (result.ok, result.value) == (True, None)
    assert result.out.startswith("Run this cell in N fresh processes")
    options = "-n, --gpus -o, --bg --ranks --ui --log-dir --env --seed --start-method --engine --numa --timeout --grace"
    for option in (*options.split(), "--virtual-local-rank,", "--stop-signal", "--max-restarts"):
        assert f"\n  {option} " in result.out


@pytest.mark.parametrize("question", ["%%elastic_run?", "%elastic_run?"])
def test_question_mark_shows_the_same_help(kernel: Kernel, question: str) -> None:
    code = f"ip = get_ipython()\nip.payload_manager.clear_payload()\n_ = ip.run_cell({question!r})\n"
    shown = kernel.run(
        code + "print(ip.payload_manager.read_payload()[0]['data']['text/plain']); ip.payload_manager.clear_payload()"
    )
    assert shown.ok, shown.text
    assert "Run this cell in N fresh processes" in shown.out
    assert "--start-method M" in shown.out


# ------------------------------------------------------------------------------------------ status, logs, stop, loading


def test_status_names_runs_ranks_and_servers(kernel: Kernel) -> None:
    kernel.run("%%elastic_run -n 2\nrank")
    lines = kernel.run("%elastic_status").out.splitlines()
    assert re.fullmatch(r"<Run [0-9a-f]{8}: Cell In\[\d+\] on 2 ranks, succeeded, \d+\.\d s>", lines[0])
    for rank in (0, 1):
        assert re.fullmatch(rf"  <rank {rank}: succeeded, pid \d+, exit code 0>", lines[1 + rank])
    assert lines[3:]
    for line in lines[3:]:
        assert re.fullmatch(r"fork server \d+ \(\w+\): .+; \d+ MiB, \d+ runs?|not preloaded: .+", line), line


def test_words_before_the_first_run(new_kernel: Callable[..., Kernel]) -> None:
    fresh = new_kernel()
    fresh.run("%load_ext ipyelastic")
    assert fresh.run("%elastic_status").out.splitlines()[0] == "no run yet"
    assert fresh.run("%elastic_logs 0").out == "UsageError: no run yet\n"
    assert fresh.run("%elastic_stop").out == "no run is alive\n"


def test_logs_of_a_silent_rank_say_so(kernel: Kernel) -> None:
    kernel.run("%%elastic_run -n 2\nif rank: print('\\n'.join(map(str, range(80))))")
    assert kernel.run("%elastic_logs").out.splitlines()[0] == "rank 0 printed nothing"
    assert kernel.run("%elastic_logs 1").out.splitlines()[:-2] == [str(n) for n in range(30, 80)]


def test_logs_of_a_failed_rank_end_with_its_failure(kernel: Kernel) -> None:
    kernel.run("%%elastic_run -n 2\nif rank: raise ValueError('bad')")
    first, head, *lines = kernel.run("%elastic_logs 1").out.splitlines()[:-2]
    assert (first, head) == ("rank 1 printed nothing", "Traceback (most recent call last):")
    assert lines[-1] == "ValueError: bad"
    kernel.run("%%elastic_run -n 1\nimport os\nprint('up', flush=True)\nos._exit(3)")
    lines = kernel.run("%elastic_logs").out.splitlines()
    assert lines[:3] == [
        "up",
        "rank 0 of 1 failed (local_rank 0)",
        "  what    it exited with code 3 and left no traceback",
    ]


def test_ranks_of_a_run_that_was_refused_were_not_started(kernel: Kernel) -> None:
    kernel.run("import threading\nlock = threading.Lock()")
    assert kernel.run("%elastic_run -n 2 lock").error_name == "UnpicklableError"
    lines = kernel.run("%elastic_status").out.splitlines()
    assert lines[1:3] == ["  <rank 0: not started>", "  <rank 1: not started>"]


@pytest.mark.slow
def test_extension_may_be_loaded_twice_unloaded_and_loaded_again(new_kernel: Callable[..., Kernel]) -> None:
    fresh = new_kernel()
    assert fresh.run("%load_ext ipyelastic").out == ""
    mark = fresh.owner_mark()
    assert fresh.run("import ipyelastic\nipyelastic.load_ipython_extension(get_ipython())").out == ""
    assert fresh.run("%elastic_run -n 1 1").value == "[0: 1]"
    assert marked_processes(mark)
    run = "import ipyelastic, signal\nrun = ipyelastic.launch(signal.pause, nproc=1)\nrun.ranks[0].pid"
    assert fresh.run(run).ok
    wait_until(lambda: fresh.value("run.ranks[0].pid"), 10)
    pid = fresh.value("run.ranks[0].pid")
    assert fresh.run("%unload_ext ipyelastic").ok
    wait_until(lambda: not marked_processes(mark), 5, "servers and ranks gone")
    assert not is_running(pid)
    assert fresh.run("%elastic_run -n 1 1").out == "UsageError: Line magic function `%elastic_run` not found.\n"
    assert fresh.run("%load_ext ipyelastic").ok
    assert fresh.run("%elastic_run -n 2 rank").value == "[0: 0, 1: 1]"


_TERMINAL = """
import warnings; warnings.simplefilter('ignore')
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in ['%load_ext ipyelastic', 'base = 5', '%%elastic_run -n 2\\nprint("from", rank)\\nbase + rank',
             'print(list(_))', '%elastic_run -n 1 1 / 0', '%unload_ext ipyelastic']:
    shell.run_cell(cell, store_history=True)
"""


@pytest.mark.slow
def test_plain_ipython_without_a_kernel_works(tmp_path: Path, run_root: Path) -> None:
    import os

    env = {**os.environ, "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _TERMINAL], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    lines = done.stdout.splitlines()
    assert {"[rank 0] from 0", "[rank 1] from 1", "[5, 6]"} <= set(lines), done.stdout + done.stderr
    assert any(line.endswith("[0: 5, 1: 6]") for line in lines)
    assert "rank 0 of 1 failed (local_rank 0)" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
