"""What a person reads under a cell that failed: the whole of it, and what goes on after it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from support.kernels import CellResult, Kernel


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def number(result: CellResult) -> int:
    """The cell's own number."""
    (found,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    return int(found)


def read(result: CellResult, **cells: CellResult) -> str:
    """The error as shown, without what differs from run to run: cells are `[this]` or named; times T, sizes N."""
    text = result.traceback
    for name, cell in {"this": result, **cells}.items():
        text = text.replace(f"In[{number(cell)}]", f"In[{name}]")
    text = re.sub(r"after \d+\.\d s", "after T s", text)
    text = re.sub(r"\d+\.\d of \d+\.\d GiB", "N of N GiB", text)
    text = re.sub(r"0x[0-9a-f]{8,}", "0x", text)
    text = re.sub(r"Traceback \(most recent", "Traceback (most recent", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n")


def said(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


RULE = "-" * 75


def test_exception_is_shown_with_the_cells_lines(kernel: Kernel) -> None:
    result = kernel.run(
        "%%elastic_run -n 2\nx = 1\nif rank == 1:\n    raise ValueError('bad')\nimport signal; signal.pause()"
    )
    assert result.error_name == "ChildFailedError"
    assert read(result) == said(f"""
        rank 1 of 2 failed (local_rank 1)
          what    ValueError: bad (Cell In[this], line 4)
        rank 0 was stopped because of it

        {RULE}
        ValueError                                Traceback (most recent call last)
        Cell In[this], line 4
              1 %%elastic_run -n 2
              2 x = 1
              3 if rank == 1:
        ----> 4     raise ValueError('bad')
              5 import signal; signal.pause()

        ValueError: bad
        """)


def test_failure_in_a_function_of_another_cell_shows_both_cells(kernel: Kernel) -> None:
    other = kernel.run("def inner(a):\n    return 1 / a\ndef outer():\n    return inner(0)")
    result = kernel.run("%%elastic_run -n 1\ny = 1\nouter()")
    assert read(result, other=other) == said(f"""
        rank 0 of 1 failed (local_rank 0)
          what    ZeroDivisionError: division by zero (Cell In[other], line 2)

        {RULE}
        ZeroDivisionError                         Traceback (most recent call last)
        Cell In[this], line 3
              1 %%elastic_run -n 1
              2 y = 1
        ----> 3 outer()

        Cell In[other], line 4, in outer()
              3 def outer():
        ----> 4     return inner(0)

        Cell In[other], line 2, in inner()
              1 def inner(a):
        ----> 2     return 1 / a

        ZeroDivisionError: division by zero
        """)


@pytest.mark.parametrize("inner", ["generator", "lambda"])
def test_a_frame_without_a_name_of_its_own_shows_its_own_line(kernel: Kernel, inner: str) -> None:
    expression = {"generator": "sum(1 / (x - 1) for x in range(3))", "lambda": "list(map(lambda x: 1 / x, [0]))"}[inner]
    defined = kernel.run(f"y = 0\n\n\ndef total():\n    first = 1\n    second = 2\n    return {expression}")
    result = kernel.run("%elastic_run -n 1 total()")
    (block,) = re.findall(r"line 7, in <\w+>\(.*?\)\n(.*?)\n\n", read(result, defined=defined), re.DOTALL)
    assert block.splitlines()[-1] == f"----> 7     return {expression}"


def test_failure_in_a_module_beside_the_notebook_shows_its_line(kernel: Kernel, notebook_folder: Path) -> None:
    path = notebook_folder / "faulty.py"
    path.write_text("def load(n):\n    # reads it\n    return {}[n]\n")
    result = kernel.run("%%elastic_run -n 1\nimport faulty\nfaulty.load('k')")
    assert read(result) == said(f"""
        rank 0 of 1 failed (local_rank 0)
          what    KeyError: 'k' ({path}, line 3)

        {RULE}
        KeyError                                  Traceback (most recent call last)
        Cell In[this], line 3
              1 %%elastic_run -n 1
              2 import faulty
        ----> 3 faulty.load('k')

        File {path}:3, in load()
              1 def load(n):
              2     # reads it
        ----> 3     return {{}}[n]

        KeyError: 'k'
        """)


@pytest.mark.parametrize(
    ("end", "between"),
    [
        (" from error", "The above exception was the direct cause of the following exception:"),
        ("", "During handling of the above exception, another exception occurred:"),
    ],
)
def test_chained_exceptions_and_notes_are_shown(kernel: Kernel, end: str, between: str) -> None:
    body = (
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        f"    error.add_note('a note')\n    raise KeyError('k'){end}"
    )
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    text = read(result)
    assert text.startswith("rank 0 of 1 failed (local_rank 0)\n  what    KeyError: 'k' (Cell In[this], line 6)\n\n")
    first, found, second = text.partition(f"\n\n{between}\n\n")
    assert found
    assert first.endswith("ZeroDivisionError: division by zero\na note")
    assert second == said(f"""
        KeyError                                  Traceback (most recent call last)
        Cell In[this], line 6
              2 try:
              3     1 / 0
              4 except ZeroDivisionError as error:
              5     error.add_note('a note')
        ----> 6     raise KeyError('k'){end}

        KeyError: 'k'
        """)


def test_suppressed_context_is_not_shown(kernel: Kernel) -> None:
    result = kernel.run(
        "%%elastic_run -n 1\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('k') from None"
    )
    assert "division by zero" not in result.traceback


def test_syntax_error_points_to_the_cells_line(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2\n\nx = 1\nfor\n")
    assert (result.error_name, read(result)) == (
        "SyntaxError",
        "  Cell In[this], line 4\n    for\n       ^\nSyntaxError: invalid syntax",
    )


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("x = 1\n  y = 2", 3, "unexpected indent"),
        ("if True:\nx = 1", 3, "expected an indented block"),
        ("x = (1,\ny = 2", 2, "'(' was never closed"),
        ("return 5", 2, "'return' outside function"),
        ("\n\nbreak", 4, "'break' outside loop"),
        ("x = 'open", 2, "unterminated string literal"),
        ("def f():\n    x = 1\n    global x", 4, "name 'x' is assigned to before global declaration"),
    ],
)
def test_every_syntax_error_names_its_line(kernel: Kernel, body: str, line: int, words: str) -> None:
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert not result.ok
    assert re.search(rf"Cell In\[this\], line {line}\b", read(result)), result.text
    assert words in result.traceback


def test_undefined_name_says_what_to_do(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nnever_defined + 1")
    assert read(result) == said(f"""
        rank 0 of 1 failed (local_rank 0)
          what    NameError: name 'never_defined' is not defined (Cell In[this], line 2)
          likely  never_defined is not defined in the notebook: its cell was not run, or only ranks ran it
          do      run its cell, then this one again; values of a %%elastic_run cell come home by -o NAME

        {RULE}
        NameError                                 Traceback (most recent call last)
        Cell In[this], line 2
              1 %%elastic_run -n 1
        ----> 2 never_defined + 1

        NameError: name 'never_defined' is not defined
        """)


def test_line_magic_shows_its_expression(kernel: Kernel) -> None:
    result = kernel.run("%elastic_run -n 1 1 / 0")
    assert "what    ZeroDivisionError: division by zero (Cell In[this], line 1)" in read(result)
    assert "----> 1 1 / 0" in result.traceback


def test_endless_recursion_shows_its_ends_only(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\ndef f(n): return f(n + 1)\nf(0)")
    assert "what    RecursionError: maximum recursion depth exceeded (Cell In[this], line 2)" in read(result)
    assert "----> 3 f(0)" in result.traceback
    assert result.traceback.count("\n") < 320


def test_exception_group_shows_its_parts(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nraise ExceptionGroup('two', [ValueError('first'), KeyError('second')])")
    assert "what    ExceptionGroup: two (2 sub-exceptions) (Cell In[this], line 2)" in read(result)
    assert "ValueError: first" in result.traceback
    assert "KeyError: 'second'" in result.traceback


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (
            "os._exit(0)",
            """
            what    it exited with code 0 without handing over a value
            likely  sys.exit(), os._exit() or quit() in the body, or in something it calls
            do      let the body end by itself; raise an exception to end it as failed
            """,
        ),
        (
            "sys.exit()",
            """
            what    it exited with code 0 without handing over a value
            likely  sys.exit(), os._exit() or quit() in the body, or in something it calls
            do      let the body end by itself; raise an exception to end it as failed
            """,
        ),
        (
            "sys.exit(3)",
            """
            what    it exited with code 3 and left no traceback
            likely  sys.exit(3), or a program that said why on stderr
            do      read its last lines (%elastic_logs 1)
            """,
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            """
            what    killed by SIGKILL after T s; it left no Python traceback
            likely  killed from outside, or by a memory limit lower than the machine's: N of N GiB were in use
            do      look for it in the machine's log (dmesg), and at the limits of the job or container
            """,
        ),
        (
            "os.kill(os.getpid(), signal.SIGTERM)",
            """
            what    ended by SIGTERM after T s; it left no Python traceback
            likely  something outside this run asked it to end: a batch system, a person, another program
            """,
        ),
    ],
)
def test_end_without_a_traceback_is_told_in_words(kernel: Kernel, ending: str, words: str) -> None:
    result = kernel.run(f"%%elastic_run -n 2\nimport os, sys, signal\nif rank == 1:\n    {ending}\nsignal.pause()")
    rows = textwrap.indent(said(words), "  ")
    assert read(result) == f"rank 1 of 2 failed (local_rank 1)\n{rows}\nrank 0 was stopped because of it"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_crash_names_the_cells_line(kernel: Kernel, name: str) -> None:
    kernel.run("import os, signal\ndef crash(signum):\n    os.kill(os.getpid(), signum)")
    result = kernel.run(f"%%elastic_run -n 2\nimport signal\nif rank == 1:\n    crash(signal.{name})\nsignal.pause()")
    text = read(result)
    assert re.search(
        rf"^  what    crashed with {name} after T s in Cell In\[\d+\], line 3 \(crash\)$", text, re.MULTILINE
    )
    assert "rank 0 was stopped because of it" in text
    assert "the Python stack of rank 1:\n" in text
    assert '  File "Cell In[this]", line 4 in <module>' in text


def test_message_of_sys_exit_is_in_the_ranks_stderr(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nimport sys\nsys.exit('the words')")
    assert result.out == "[rank 0 stderr] the words\n"
    assert "what    it exited with code 1 and left no traceback" in result.traceback


def test_peers_that_were_stopped_share_one_line(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 4\nimport signal\nif rank == 2:\n    raise OSError('gone')\nsignal.pause()")
    head = read(result).split("\n\n")[0].splitlines()
    assert head == [
        "rank 2 of 4 failed (local_rank 2)",
        "  what    OSError: gone (Cell In[this], line 4)",
        "ranks 0-1, 3 were stopped because of it",
    ]


def test_values_of_the_other_ranks_are_kept(kernel: Kernel) -> None:
    gate = (
        "import os, signal\nif rank == 1:\n"
        "    while not ready.exists(): signal.sigtimedwait([], 0.005)\n    1 / 0\nrank"
    )
    kernel.run("import pathlib, tempfile, threading, ipyelastic\nready = pathlib.Path(tempfile.mkdtemp()) / 'ready'")
    watch = "def touch_when_home():\n    while True:\n        run = ipyelastic.last_run()\n"
    watch += "        if run and run is not former and run.results == {0: 0}: ready.touch(); return\n"
    watch += "        threading.Event().wait(0.005)\nformer = ipyelastic.last_run()\n"
    kernel.run(watch + "watcher = threading.Thread(target=touch_when_home, daemon=True); watcher.start()")
    result = kernel.run(f"%%elastic_run -n 2\n{gate}")
    assert result.error_name == "ChildFailedError", result.text
    assert kernel.value("ipyelastic.last_run().results") == {0: 0}
    assert kernel.value("ipyelastic.last_run().status") == "failed"


def test_run_all_stops_at_a_failed_cell_and_the_notebook_goes_on(kernel: Kernel) -> None:
    kernel.run("went_on = False")
    first = kernel.send("%%elastic_run -n 2\nraise ValueError('stop here')")
    second = kernel.send("went_on = True")
    assert not kernel.collect(first).ok
    replies = [kernel.client.get_shell_msg(timeout=20)]
    while replies[-1]["parent_header"]["msg_id"] != second:
        replies.append(kernel.client.get_shell_msg(timeout=20))
    assert replies[-1]["content"]["status"] == "aborted"
    assert kernel.value("went_on") is False
    assert kernel.run("%%elastic_run -n 2\nrank").value == "[0: 0, 1: 1]"


@pytest.mark.slow
def test_time_limit_shows_where_each_rank_was(kernel: Kernel) -> None:
    other = kernel.run("import os\ndef waits(end):\n    os.read(end, 1)")
    body = "import os\nend, _ = os.pipe()\nif rank == 0:\n    waits(end)\nos.read(end, 1)"
    result = kernel.run(f"%%elastic_run -n 2 --timeout 1\n{body}")
    assert result.error_name == "RunTimedOut"
    text = re.sub(r"Current thread 0x \(most recent", "Current thread (most recent", read(result, other=other))
    assert text == said("""
        RunTimedOut: the run was ended after its time limit of 1 s

        rank 0 was here:
        Current thread (most recent call first):
          File "Cell In[other]", line 3 in waits
          File "Cell In[this]", line 5 in <module>

        rank 1 was here:
        Current thread (most recent call first):
          File "Cell In[this]", line 6 in <module>
        """)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print(1)\nprint(lock)", "lock (_thread.lock), used in Cell In[this], line 3,"),
        ("uses_lock()", "lock (_thread.lock), used in uses_lock(),"),
        ("calls_uses()", "lock (_thread.lock), used in uses_lock(),"),
        ("closed_over()", "kept (_thread.lock), used in make.<locals>.<lambda>(),"),
        ("holder", "holder (Holder), used in Cell In[this], line 2,"),
        ("listed", "listed (list), used in Cell In[this], line 2,"),
    ],
)
def test_name_that_cannot_travel_is_named_with_its_type_and_use(kernel: Kernel, body: str, words: str) -> None:
    code = (
        "import threading\nlock = threading.Lock()\ndef uses_lock(): return lock\n"
        "def calls_uses(): return uses_lock()\n"
    )
    code += "def make():\n    kept = lock\n    return lambda: kept\nclosed_over = make()\n"
    code += "class Holder: pass\nholder = Holder(); holder.inner = lock\nlisted = [lock]"
    assert kernel.run(code).ok
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    reason = "cannot be pickled: TypeError: cannot pickle '_thread.lock' object; "
    reason += "it holds for one process only: make it inside the cell"
    assert (result.error_name, read(result)) == ("UnpicklableError", f"UnpicklableError: {words} {reason}")


def test_crash_of_code_that_has_faulthandler_for_itself_has_its_stack(kernel: Kernel) -> None:
    body = "import faulthandler, sys, os, signal\nfaulthandler.enable(sys.stderr)\nos.kill(os.getpid(), signal.SIGSEGV)"
    lines = kernel.run(f"%%elastic_run -n 1\n{body}").traceback.splitlines()
    at = lines.index("the Python stack of rank 0:")
    assert lines[at + 1] == "Fatal Python error: Segmentation fault"
    assert lines[-1].endswith(", line 4 in <module>")
    assert "ipyelastic" not in "".join(lines[at:])
