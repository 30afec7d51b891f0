"""`--engine here`: one rank in the kernel itself, with real frames, and the notebook as it was afterwards."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from support.gates import Gate
from support.kernels import CellResult, Kernel
from support.waiting import wait_until


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.fixture(autouse=True)
def environment_is_given_back(kernel: Kernel) -> object:
    """Whatever a test of this file did: the kernel's environment, folder, path and loop are as they were."""
    kernel.run("import os as _os, sys as _sys")
    state = "(sorted(_os.environ.items()), _os.getcwd(), list(_sys.path), _sys.argv)"
    before = kernel.run(state).value
    yield
    assert kernel.run(state).value == before
    assert kernel.run("import asyncio as _a\nawait _a.sleep(0, 3)").value == "3"
    return None


def number(result: CellResult) -> int:
    (found,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    return int(found)


def said(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


def answer(kernel: Kernel, code: str, *answers: str) -> CellResult:
    """Run a cell that asks its person something; each question gets the next answer."""
    sent = kernel.send(code)
    for text in answers:
        kernel.client.get_stdin_msg(timeout=30)
        kernel.client.input(text)
    return kernel.collect(sent, 30)


# ------------------------------------------------------------------------------------------------------ a good end


def test_the_body_is_the_only_rank_and_runs_in_the_kernel(kernel: Kernel) -> None:
    body = "import os\nprint('here', rank, local_rank, world_size)\nos.getpid()"
    result = kernel.run(f"%%elastic_run --engine here -o got\n{body}")
    assert (result.out, result.value) == ("here 0 0 1\n", f"[0: {kernel.pid}]")
    assert kernel.value("type(got).__name__, list(got)") == ("Results", [kernel.pid])


@pytest.mark.parametrize("line", ["%elastic_run --engine here rank + 1", "%elastic_run --engine=here -n 1 rank + 1"])
def test_the_line_form_works_too(kernel: Kernel, line: str) -> None:
    assert (kernel.run(line).out, kernel.run(line).value) == ("", "[0: 1]")


def test_nothing_is_shown_for_none_and_for_a_semicolon(kernel: Kernel) -> None:
    assert kernel.run("%%elastic_run --engine here\nNone").value is None
    assert kernel.run("%%elastic_run --engine here\n1;").value is None


def test_environment_is_that_of_a_rank(kernel: Kernel) -> None:
    torchruns = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE"
    names = [*torchruns.split(), "ROLE_NAME", "MASTER_ADDR", "TORCH_NCCL_ASYNC_ERROR_HANDLING"]
    names += [f"TORCHELASTIC_{name}" for name in ("RESTART_COUNT", "MAX_RESTARTS", "USE_AGENT_STORE")]
    names += ["JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "GIVEN"]
    body = f"import os\n{{name: os.environ.get(name) for name in {names}}}"
    kernel.run(f"%%elastic_run --engine here --env GIVEN=1 -o got\n{body}")
    kernel.run(f"%%elastic_run -n 1 --env GIVEN=1 -o fresh\n{body}")
    assert kernel.value("got[0]") == kernel.value("fresh[0]")
    run = "import os\nint(os.environ['MASTER_PORT']), len(os.environ['TORCHELASTIC_RUN_ID'])"
    kernel.run(f"%%elastic_run --engine here -o got\n{run}")
    port, length = kernel.value("got[0]")
    assert (1024 < port < 65536, length) == (True, 8)


def test_environment_folder_and_path_that_the_body_changes_are_given_back(kernel: Kernel) -> None:
    body = "import os, sys\nos.environ['NEW'] = '1'\ndel os.environ['PATH']\nos.chdir('/')\nsys.path.insert(0, '/x')"
    assert kernel.run(f"%%elastic_run --engine here\n{body}").ok  # the fixture of this file compares
    assert kernel.run(f"%%elastic_run --engine here\n{body}\n1/0").error_name == "ZeroDivisionError"


def test_body_and_notebook_functions_share_one_namespace(kernel: Kernel) -> None:
    kernel.run("def reads(): return (rank, world_size, mine, deep())\ndef deep(): return scale")
    kernel.run("scale = 10\ndef sets():\n    global scale\n    scale = 11")
    result = kernel.run("%%elastic_run --engine here\nmine = 5\nfirst = reads()\nsets()\nfirst, reads()")
    assert result.value == "[0: ((0, 1, 5, 10), (0, 1, 5, 11))]"


def test_nothing_it_assigns_stays_in_the_notebook(kernel: Kernel) -> None:
    kernel.run("kept = old = [1]\ngone = 2\nrank = 'mine'")
    body = "old = 3\ndel gone\nnew = 4\nimport json as j\ndef f(): pass\nfor i in range(3): pass\nrank, old"
    result = kernel.run(f"%%elastic_run --engine here\n{body}")
    note = "note: rank is the rank's own here and hides the notebook's rank\n"
    assert (result.out, result.value) == (note, "[0: (0, 3)]")
    names = "{name: name in globals() for name in ('new', 'j', 'f', 'i', 'local_rank', 'world_size')}"
    assert kernel.value("old is kept, gone, rank") == (True, 2, "mine")
    assert not any(kernel.value(names).values())
    kernel.run("del rank")


def test_the_locals_of_a_function_around_the_magic_are_seen(kernel: Kernel) -> None:
    assert kernel.run("def around(inner):\n    %elastic_run --engine here -o got inner * 2\naround(21)").ok
    assert kernel.value("list(got), 'inner' in globals()") == ([42], False)


def test_await_asyncio_run_and_shell_commands_work(kernel: Kernel) -> None:
    awaits = "import asyncio\nx = await asyncio.sleep(0, 3)\nx + await asyncio.sleep(0, 4)"
    assert kernel.run(f"%%elastic_run --engine here\n{awaits}").value == "[0: 7]"
    assert kernel.run("%%elastic_run --engine here\nimport asyncio\nasyncio.run(asyncio.sleep(0, 3))").value == "[0: 3]"
    result = kernel.run(
        "%%elastic_run --engine here\nword = 'x'\n!echo {word} `printenv RANK`\nlines = !echo $WORLD_SIZE\nlines"
    )
    assert (result.out.strip(), result.value) == ("x 0", "[0: ['1']]")


def test_display_goes_to_the_cell_as_in_any_cell(kernel: Kernel) -> None:
    body = "from IPython.display import HTML\ndisplay(HTML('<b>x</b>'))"
    result = kernel.run(f"%%elastic_run --engine here\n{body}")
    shown = [one["content"]["data"] for one in result.messages if one["msg_type"] == "display_data"]
    assert [data.get("text/html") for data in shown] == ["<b>x</b>"]


def test_seed_gives_what_rank_0_would_get_and_the_notebooks_numbers_go_on(kernel: Kernel) -> None:
    draw = "import random, numpy\n(random.random(), float(numpy.random.rand()))"
    kernel.run(f"%%elastic_run -n 1 --seed 5 -o fresh\n{draw}")
    kernel.run(f"%%elastic_run --engine here --seed 5 -o first\n{draw}")  # imports numpy
    kernel.run(f"%%elastic_run --engine here --seed 5 -o second\n{draw}")
    assert kernel.value("first[0] == second[0] == fresh[0]") is True
    kernel.run("import random, numpy; random.seed(1); numpy.random.seed(1)")
    plain = kernel.value("(random.random(), float(numpy.random.rand()))")
    kernel.run("random.seed(1); numpy.random.seed(1)")
    kernel.run(f"%%elastic_run --engine here --seed 5\n{draw}")
    assert kernel.value("(random.random(), float(numpy.random.rand()))") == plain


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "\n1/0"])
def test_a_torch_process_group_can_be_made_again_and_again(kernel: Kernel, end: str) -> None:
    body = (
        "import torch, torch.distributed as dist\ndist.init_process_group('gloo')\n"
        "x = torch.ones(1)\ndist.all_reduce(x)\n"
        "print(dist.get_world_size(), x.item())"
    )
    for _ in range(3):
        result = kernel.run(f"%%elastic_run --engine here\n{body}{end}", 110)
        assert "1 1.0\n" in result.out, result.text
    assert kernel.value("__import__('torch.distributed').distributed.is_initialized()") is False


def test_arguments_of_the_kernel_are_not_the_bodys(kernel: Kernel) -> None:
    body = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', default=1)\n"
    assert kernel.run(f"%%elastic_run --engine here\n{body}parser.parse_args().lr").value == "[0: 1]"


def test_a_value_need_not_be_picklable(kernel: Kernel) -> None:
    kernel.run("%%elastic_run --engine here -o got\nimport threading\nthreading.Lock()")
    assert kernel.value("got[0].acquire(blocking=False)") is True


def test_input_asks_the_person(kernel: Kernel) -> None:
    result = answer(kernel, "%%elastic_run --engine here\ninput('name? ') + str(rank)", "me")
    assert result.value == "[0: 'me0']"


# ------------------------------------------------------------------------------------------------------- a failure


def test_the_traceback_is_the_bodys_own(kernel: Kernel) -> None:
    kernel.run("scale = 10")
    result = kernel.run("%%elastic_run --engine here\nscale = 0\ndef inner(a):\n    return a / scale\ninner(1)")
    cell = f"Cell In[{number(result)}]"
    assert result.out == (
        "note: the names of this cell stay for %debug until the next %elastic_run:"
        " new inner; in place of the notebook's own scale\n"
    )
    assert result.traceback.strip() == said(f"""
        {"-" * 75}
        ZeroDivisionError                         Traceback (most recent call last)
        {cell}, line 5
              1 %%elastic_run --engine here
              2 scale = 0
              3 def inner(a):
              4     return a / scale
        ----> 5 inner(1)

        {cell}, line 4, in inner(a)
              3 def inner(a):
        ----> 4     return a / scale

        ZeroDivisionError: division by zero
        """)
    assert "ipyelastic" not in result.traceback
    assert "run_cell_magic" not in result.traceback


def test_debug_walks_the_real_frames(kernel: Kernel) -> None:
    kernel.run("weight = 1")
    kernel.run(
        "%%elastic_run --engine here\nweight = 7\ndef inner(a):\n    local = a + 1\n    return local / 0\ninner(weight)"
    )
    asks = ["p ('local', local)", "p ('module', weight, rank)", "up", "p ('up', weight)", "q"]
    result = answer(kernel, "%debug", *asks)
    assert "('local', 8)" in result.out
    assert "('module', 7, 0)" in result.out
    assert "('up', 7)" in result.out
    assert "inner(weight)" in result.out


def test_breakpoint_stops_in_the_body(kernel: Kernel) -> None:
    body = "def inner(a):\n    b = a * 2\n    breakpoint()\n    return b + 1\ninner(4)"
    result = answer(kernel, f"%%elastic_run --engine here\n{body}", "p ('b', b, rank)", "c")
    assert "('b', 8, 0)" in result.out
    assert result.value == "[0: 9]"


def test_error_of_a_run_in_the_body_has_the_bodys_frames(kernel: Kernel) -> None:
    kernel.run("import ipyelastic")
    body = "def inner():\n    local = 3\n    ipyelastic.launch(local, nproc=1)\ninner()"
    result = kernel.run(f"%%elastic_run --engine here\n{body}")
    assert "----> 4     ipyelastic.launch(local, nproc=1)" in result.traceback
    assert "('local', 3)" in answer(kernel, "%debug", "p ('local', local)", "q").out


def test_names_of_a_failed_cell_stay_until_the_next_run(kernel: Kernel) -> None:
    kernel.run("lr = 1\nother = 2\nfor name in ('batch', 'rank'): globals().pop(name, None)")
    kernel.run("%%elastic_run --engine here\nlr = 5\nother = 6\nbatch = [1]\n1/0")
    assert kernel.value("lr, batch, rank") == (5, [1], 0)
    kernel.run("other = 7")
    assert kernel.run("%elastic_run -n 1 lr").value == "[0: 1]"
    assert kernel.value("lr, other, 'batch' in globals(), 'rank' in globals()") == (1, 7, False, False)


def test_a_failure_that_assigned_nothing_has_no_note(kernel: Kernel) -> None:
    kernel.run("%elastic_run --engine here 1")
    assert kernel.run("%%elastic_run --engine here\n1/0").out == ""


def test_syntax_error_of_an_imported_file_shows_the_way_there(kernel: Kernel, notebook_folder: Path) -> None:
    (notebook_folder / "broken_here.py").write_text("x = = 1\n")
    result = kernel.run("%%elastic_run --engine here\n\nimport broken_here")
    assert result.error_name == "SyntaxError"
    assert f"Cell In[{number(result)}], line 3" in result.traceback
    assert "x = = 1" in result.traceback
    assert "run_cell_magic" not in result.traceback


def test_an_exception_raised_again_is_shown_where_it_was_raised(kernel: Kernel) -> None:
    kernel.run(
        "kept = []\ndef keeps():\n    try:\n        1/0\n    except Exception as e:\n        kept.append(e); raise"
    )
    kernel.run("%elastic_run --engine here keeps()")
    result = kernel.run("raise kept[0]")
    assert f"Cell In[{number(result)}], line 1" in result.traceback


def test_interrupt_ends_it_as_any_cell(kernel: Kernel, tmp_path: Path) -> None:
    for wait in ("import signal; signal.pause()", "import asyncio\nawait asyncio.Event().wait()"):
        mark = tmp_path / f"up{len(wait)}"
        sent = kernel.send(f"%%elastic_run --engine here\nopen({str(mark)!r}, 'w').close()\n{wait}")
        wait_until(mark.exists, 20, "the body's mark")
        kernel.interrupt()
        result = kernel.collect(sent, 20)
        assert result.error_name == "KeyboardInterrupt"
        assert "ipyelastic" not in result.traceback


def test_sys_exit_is_what_it_is_in_any_cell(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run --engine here\nimport sys\nsys.exit(3)")
    assert (result.error_name, result.error_value) == ("SystemExit", "3")
    assert kernel.value("1 + 1") == 2


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("-n 2", "nproc=2"),
        ("--timeout 5", "timeout=5.0"),
        ("--bg", "bg"),
        ("--start-method spawn", "start_method='spawn'"),
        ("--grace 1", "grace=1.0"),
        ("--log-dir /tmp/x", "log_dir='/tmp/x'"),
        ("--ranks 0,1", "ranks=[0, 1]"),
        ("-n auto --bg --ui none", "bg, nproc='auto', ui='none'"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(kernel: Kernel, line: str, wrong: str) -> None:
    kernel.run("ran = False")
    result = kernel.run(f"%%elastic_run --engine here {line}\nran = True")
    words = f"UsageError: engine='here' is one rank in this very process: leave out {wrong}\n"
    assert (result.out, result.traceback) == (words, "")
    assert kernel.value("ran") is False


def test_a_variable_that_was_read_already_is_noted(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run --engine here --env MKL_X=1\nimport os\nos.environ['MKL_X']")
    words = "note: MKL_X is read when a process starts or imports its libraries: too late for this one\n"
    assert (result.out, result.value) == (words, "[0: '1']")


def test_a_magic_in_the_body_works_as_in_the_notebook(kernel: Kernel) -> None:
    kernel.run("def doubled(n): return 2 * n")
    timed = kernel.run("%%elastic_run --engine here\n%time timed = doubled(rank + 4)\nwhere = %pwd\ntimed, where")
    assert "Wall time: " in timed.out
    folder = kernel.value("__import__('os').getcwd()")
    assert timed.value == f"[0: (8, {folder!r})]"
    assert kernel.value("'timed' in globals()") is False
    inner = kernel.run("%%elastic_run --engine here\nvalues = %elastic_run -n 2 rank + 5\nlist(values), rank")
    assert inner.value == "[0: ([5, 6], 0)]"
    assert kernel.run("%%elastic_run -n 1\n%pwd").out.startswith("UsageError: line 2: %pwd works in the notebook only")


def test_a_saved_engine_that_is_in_the_way_is_named_with_the_other(kernel: Kernel) -> None:
    kernel.run("%elastic_config engine=here")
    try:
        refused = kernel.run("%elastic_run -n 2 rank").out
        fresh = kernel.run("%elastic_run -n 2 --engine local rank").value
    finally:
        kernel.run("%elastic_config --reset")
    words = "engine='here' is one rank in this very process: leave out nproc=2, or give engine='local'"
    assert refused == f"UsageError: {words}\n"
    assert fresh == "[0: 0, 1: 1]"


def test_a_saved_place_for_output_is_no_error(kernel: Kernel) -> None:
    kernel.run("%elastic_config ui=none")
    try:
        assert kernel.run("%%elastic_run --engine here\nprint('shown')").out == "shown\n"
    finally:
        kernel.run("%elastic_config --reset")


def test_a_cell_is_refused_while_another_thread_is_a_rank(kernel: Kernel, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        kernel.run(
            "import threading, ipyelastic\nup = threading.Event()\n"
            f"def waits():\n    up.set(); open({gate.path!r}).close()\n"
            "thread = threading.Thread(target=lambda: ipyelastic.launch(waits, engine='here'))\n"
            "thread.start(); up.wait(20)"
        )
        refused = kernel.run("%elastic_run --engine here 1")
        gate.open()
        kernel.run("thread.join(20)")
    words = "engine='here': another here-run is going on in this process, in another thread;"
    assert refused.out == f"UsageError: {words} wait for its end, or give engine='local'\n"
    assert kernel.run("%elastic_run --engine here 1").value == "[0: 1]"


def test_logs_say_where_the_output_of_a_run_in_this_process_is(kernel: Kernel) -> None:
    kernel.run("%elastic_run -n 1 print('of the rank')")
    kernel.run("%elastic_run --engine here print('of the cell')")
    cell = "the last run was a cell in this very process: its output stands under that cell\n"
    assert kernel.run("%elastic_logs 0").out == cell
    kernel.run("import ipyelastic\nrun = ipyelastic.launch(print, engine='here')")
    folder = kernel.value("run.log_dir")
    shown = kernel.run("%elastic_logs").out
    assert re.fullmatch(
        r"<Run \w+: print on 1 rank, succeeded, .* s> ran in this very process: its output stands in the cell\n"
        rf"its folder: {re.escape(folder)}\n",
        shown,
    )
    kernel.run("%elastic_run -n 1 print('of the rank')")
    assert kernel.run("%elastic_logs 0").out.startswith("of the rank\n")


def test_interrupted_launch_shows_the_functions_line(kernel: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "up"
    new = tmp_path / "new"
    new.touch()
    # On one line: the interrupt may come before the next one is reached.
    body = f"import os; os.rename({str(new)!r}, {str(mark)!r}); signal.pause()"
    kernel.run(f"import ipyelastic, signal\ndef waits():\n    pass\n    {body}")
    sent = kernel.send("ipyelastic.launch(waits, engine='here')")
    wait_until(mark.exists, 20)
    kernel.interrupt()
    result = kernel.collect(sent, 20)
    assert result.error_name == "KeyboardInterrupt"
    assert "line 4, in waits()" in result.traceback
    assert "----> 4     import os; os.rename(" in result.traceback
    assert "engines" not in result.traceback


def test_extension_unloaded_after_a_failed_cell_gives_the_names_back(
    new_kernel: Callable[..., Kernel],
) -> None:
    kernel = new_kernel()
    kernel.run("%load_ext ipyelastic\nlr = 1")
    kernel.run("%%elastic_run --engine here\nlr = 5\nbatch = [1]\n1/0")
    assert kernel.value("lr, 'batch' in globals()") == (5, True)
    kernel.run("%unload_ext ipyelastic")
    assert kernel.value("lr, 'batch' in globals(), 'rank' in globals()") == (1, False, False)


# ---------------------------------------------------------------------------------------------------- nothing left


def test_many_runs_leave_nothing_behind(kernel: Kernel) -> None:
    def fds() -> int:
        return len(os.listdir(f"/proc/{kernel.pid}/fd"))

    def some_runs(count: int) -> int:
        for _ in range(count):
            kernel.run("%%elastic_run --engine here --seed 1\nx = 1\nawait __import__('asyncio').sleep(0)")
            kernel.run("%%elastic_run --engine here\nx = 1\n1/0")
        kernel.run("%elastic_run --engine here 1")
        return int(kernel.value("len(__import__('threading').enumerate())"))

    threads = some_runs(2)  # what the kernel keeps for good is made now
    before = fds()
    assert some_runs(20) <= threads
    # A fork server may be warming up at any of these moments: it has descriptors until it is ready.
    wait_until(lambda: fds() <= before, 10, "descriptors given back")
    assert kernel.value("'x' in globals()") is False
    assert re.fullmatch(r"\[0: \d+\]", kernel.run("%elastic_run -n 1 __import__('os').getpid()").value or "")
