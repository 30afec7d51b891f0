"""Cells and objects that are wrong in every way: one clear error each, nothing left, and the next cell works."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gates import Gate
from support.kernels import CellResult, Kernel
from support.left import is_running, run_processes
from support.waiting import wait_until

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    loaded = module_kernel.run(_HELPERS)
    assert loaded.ok, loaded.text
    return module_kernel


_HELPERS = """
import sys, os, time
def mark(path):
    with open(path, 'w') as file: file.write(str(os.getpid()))
class AtPack:
    def __init__(self, do): self.do = do
    def __reduce__(self): return self.do()
def raise_it(error): raise error
class AtLoad:
    "Runs `code` where it is loaded."
    def __init__(self, code): self.code = code
    def __reduce__(self): return exec, (self.code,)
_threads = lambda: sorted(t.name for t in __import__('threading').enumerate() if t.name.startswith('ipyelastic'))
"""


@pytest.fixture(autouse=True)
def next_cell_works(kernel: Kernel) -> Iterator[None]:
    """After each test: the next cell runs, no thread of a run is there, no process but servers and spares."""
    yield
    after = kernel.run("%elastic_run -n 2 rank")
    assert after.value == "[0: 0, 1: 1]", after.text
    wait_until(lambda: kernel.value("_threads()") == [], 10, f"threads left: {kernel.value('_threads()')}")
    owner = kernel.owner_mark()
    wait_until(lambda: run_processes(owner) == [], 10, "processes left")


def seen(result: CellResult) -> str:
    """The error a person reads, the cell's number as `[this]`, the code around a line left out."""
    (number,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    text = result.traceback.partition("\n\n---")[0].replace(f"In[{number}]", "In[this]")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n")


def what(result: CellResult) -> str:
    """The report's `what` line of a failed run."""
    assert result.error_name == "ChildFailedError", result.text
    found = re.search(r"^  what    (.*)$", seen(result), re.MULTILINE)
    assert found is not None, result.text
    return found[1]


# --------------------------------------------------------------------------------------------------- the text of a body


@pytest.mark.parametrize("options", ["-n 1.5", "-n True", "-n []"])
def test_numbers_that_are_none(kernel: Kernel, options: str) -> None:
    value = options.partition(" ")[2]
    result = kernel.run(f"%%elastic_run {options}\nprint('ran')")
    assert result.out == f'UsageError: nproc=\'{value}\': expected a number, "cpu", "gpu" or "auto"\n'


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ("nproc=True", 'nproc=True: expected a number, "cpu", "gpu" or "auto"'),
        ("nproc=1.5", 'nproc=1.5: expected a number, "cpu", "gpu" or "auto"'),
        ("nproc=10_000", "nproc=10000: expected 1 to 1024 ranks"),
        ("nproc=1, env={'A': 1}", "env: the value of A is 1: expected text"),
        ("nproc=1, evn={}", "evn=: no such option, did you mean env?"),
    ],
)
def test_keywords_of_launch_are_refused_without_frames_of_ours(kernel: Kernel, keywords: str, words: str) -> None:
    result = kernel.run(f"import ipyelastic\nipyelastic.launch(print, {keywords})")
    assert (result.error_name, result.error_value) == ("OptionError", words)
    assert "ipyelastic.launch(print" in result.traceback
    assert "File " not in result.traceback


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\n", "nothing to run: the cell holds nothing below its first line"),
        ("  \n\t\n", "nothing to run: the cell holds nothing below its first line"),
        ("x = 1\ny = '\0'\n", "line 3: '\\x00' cannot stand in a program"),
        ("x = '\udc80'\n", "line 2: '\\udc80' cannot stand in a program"),
    ],
)
def test_text_that_is_no_program_is_refused_in_one_line(kernel: Kernel, text: str, words: str) -> None:
    result = kernel.run(f"get_ipython().run_cell_magic('elastic_run', '-n 2', {text!r})")
    assert (result.out, result.traceback) == (f"UsageError: {words}\n", "")


def test_a_number_of_spares_that_is_none_is_refused_in_one_line(kernel: Kernel) -> None:
    kernel.run("import os\nos.environ['IPYELASTIC_SPARES'] = 'many'")
    result = kernel.run("%elastic_run -n 2 rank")
    kernel.run("del os.environ['IPYELASTIC_SPARES']")
    words = "IPYELASTIC_SPARES='many': expected how many ranks to fork ahead: a whole number, 0 for none"
    assert (result.out, result.traceback) == (f"UsageError: {words}\n", "")


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("x = 1\n\ty = 2", 3, "unexpected indent"),
        ("if True:\n\tx = 1\n        y = 2", 4, "inconsistent use of tabs and spaces in indentation"),
        ("yield 1", 2, "'yield' outside function"),
        ("def f():\n    await g()", 3, "'await' outside async function"),
        ("x = '''open\n\n", 2, "unterminated triple-quoted string literal (detected at line 3)"),
        ("nonlocal x", 2, "nonlocal declaration not allowed at module level"),
        ("from __future__ import braces", 2, "not a chance"),
    ],
)
def test_syntax_errors_name_the_cells_line(kernel: Kernel, body: str, line: int, words: str) -> None:
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert result.error_name in ("SyntaxError", "IndentationError", "TabError"), result.text
    assert f"Cell In[this], line {line}\n" in seen(result)
    assert words in result.traceback


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("# nothing but a comment", None),
        ('"""a docstring"""', "[0: 'a docstring']"),
        ("pass", None),
        ("...", "[0: Ellipsis]"),
    ],
)
def test_bodies_that_do_nothing_do_nothing(kernel: Kernel, body: str, value: str | None) -> None:
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert (result.ok, result.value, result.out) == (True, value, "")


@pytest.mark.parametrize(
    ("body", "line", "sign"),
    [
        ("%%time\nx = 1", 2, "%%time"),
        ("x = 1\n%%time\ny = 2", 3, "%%time"),
        ("for i in range(2):\n    %time i", 3, "%time"),
        ("%%elastic_run -n 2\nx = 1", 2, "%%elastic_run"),
        ("%elastic_run -n 2 1", 2, "%elastic_run"),
        ("get_ipython().run_line_magic('time', '1')", 2, "%time"),
    ],
)
def test_magics_in_a_body_are_refused_with_their_line(kernel: Kernel, body: str, line: int, sign: str) -> None:
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    said = f"line {line}: {sign} works in the notebook only, not inside a rank; move it to a cell of its own"
    assert (result.out, result.traceback) == (f"UsageError: {said}\n", "")


def test_magic_that_is_found_only_in_the_rank_says_so_there(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nip = get_ipython()\nip.run_line_magic('time', '1')")
    assert what(result) == (
        "AttributeError: get_ipython().run_line_magic is not there inside a rank: magics and IPython's own tools work "
        "in the notebook only (Cell In[this], line 3)"
    )


def test_a_cell_of_a_megabyte_and_one_of_twenty_thousand_lines_run(kernel: Kernel) -> None:
    magic = "get_ipython().run_cell_magic('elastic_run', '-n 1', "
    assert kernel.run(magic + "'x = \"' + 'y' * 1_000_000 + '\"\\nlen(x)')").value == "[0: 1000000]"
    assert kernel.run(magic + "'x = 1\\n' * 20_000 + 'x')").value == "[0: 1]"


def test_names_of_any_alphabet(kernel: Kernel) -> None:
    assert kernel.run("größe = 5; 名前 = 'x'; π = 3").ok
    assert kernel.run("%%elastic_run -n 1 -o ergebnis_ü\nπ = 4\n(größe, 名前, π)").ok
    assert kernel.value("list(ergebnis_ü)") == [(5, "x", 4)]


# ----------------------------------------------------------------------------------------- names that hide other names


def test_names_of_builtins_and_of_ours_may_be_taken(kernel: Kernel) -> None:
    cells = [
        "list = 3; str = 'me'; int = None; len = lambda x: 77; rank = 7\ndef display(*a): return 'mine'",
        "def print(*a): __import__('builtins').print('MINE', *a)",
    ]
    for cell in cells:
        assert kernel.run(cell).ok
    try:
        result = kernel.run("%%elastic_run -n 1\nprint('x')\n(list, str, int, len('x'), rank, display(1))")
        assert result.value == "[0: (3, 'me', None, 77, 0, 'mine')]", result.text
        assert result.out.splitlines() == [
            "note: rank is the rank's own here and hides the notebook's rank",
            "[rank 0] MINE x",
        ]
    finally:
        kernel.run("del list, str, int, len, rank, display, print")


@pytest.mark.parametrize(
    "body",
    [
        "del rank\nprint = 5",
        "globals().clear()",
        "del __builtins__",
        "import sys\nsys.modules.clear()",
        "import os\nos.chdir('/'); os.umask(0o777); os.environ.clear()",
        "import locale\nlocale.setlocale(locale.LC_ALL, 'C')",
        "import sys\nsys.stdout = sys.stderr = None\nprint('lost')",
        "import os\nos.close(1); os.close(2)",
        "import os\nos._exit = os.getpid = None",
        "import builtins\nbuiltins.open = None",
        "import sys\nsys.stdout.close()\nsys.stderr.close()",
        "import signal\nfor n in signal.valid_signals() - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)",
    ],
)  # fmt: skip
def test_ranks_may_tear_down_what_they_like(kernel: Kernel, body: str) -> None:
    result = kernel.run(f"%%elastic_run -n 2\n{body}\n5")
    assert result.value == "[0: 5, 1: 5]", result.text
    assert result.out == ""


def test_rank_that_cannot_exit_by_python_ends_all_the_same(kernel: Kernel) -> None:
    """It must not come back into the fork server's loop."""
    result = kernel.run("%%elastic_run -n 2\nimport os\nos._exit = None\n1 / 0")
    assert what(result) == "ZeroDivisionError: division by zero (Cell In[this], line 4)"
    assert result.out == ""


# ------------------------------------------------------------------------------------------------------ exceptions


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("class E(Exception):\n    def __str__(self): raise ValueError\n    __repr__ = __str__\nraise E",
         "E: <its text could not be made: ValueError> (Cell In[this], line 5)"),
        ("class E(Exception):\n    def __getattribute__(self, n): raise RuntimeError\nraise E('x')",
         "E: <nothing more can be read of it: RuntimeError> (Cell In[this], line 4)"),
        ("import threading\nclass E(Exception): pass\ne = E('x'); e.lock = threading.Lock()\nraise e",
         "E: x (Cell In[this], line 5)"),
        ("class E(BaseException): pass\nraise E('base')", "E: base (Cell In[this], line 3)"),
        ("raise StopIteration(3)", "StopIteration: 3 (Cell In[this], line 2)"),
        ("raise GeneratorExit", "GeneratorExit (Cell In[this], line 2)"),
        ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine (Cell In[this], line 2)"),
        ("raise ExceptionGroup('several', [ValueError(1)])",
         "ExceptionGroup: several (1 sub-exception) (Cell In[this], line 2)"),
        ("e = ValueError('x'); e.__notes__ = 5\nraise e", "ValueError: x (Cell In[this], line 3)"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded (Cell In[this], line 2)"),
        ("import asyncio\nawait asyncio.sleep(0)\nundefined_here",
         "NameError: name 'undefined_here' is not defined (Cell In[this], line 4)"),
        ("[await one for one in undefined_here]",
         "NameError: name 'undefined_here' is not defined (Cell In[this], line 2)"),
    ],
)  # fmt: skip
def test_exceptions_of_every_kind_are_told(kernel: Kernel, body: str, words: str) -> None:
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert what(result) == words
    assert "asyncio" not in result.traceback.replace("import asyncio", "").replace("await asyncio", "")


def test_message_of_a_hundred_megabytes_is_cut(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nraise ValueError('a' * 100_000_000)", 120)
    assert what(result) == f"ValueError: {'a' * 297}... (Cell In[this], line 2)"
    assert "\n... 99,900,000 characters left out ...\n" in result.traceback
    assert len(result.traceback) < 110_000


def test_memory_that_is_not_there_is_told(kernel: Kernel) -> None:
    body = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\nbytearray(4 << 30)"
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert seen(result).splitlines()[1:4] == [
        "  what    MemoryError (Cell In[this], line 4)",
        "  likely  this rank could not get the memory it asked for: the machine is full, or a limit (`ulimit -v`) is "
        "reached",
        "  do      try smaller data or batches, or fewer ranks",
    ]


def test_output_that_is_no_text_is_shown(kernel: Kernel) -> None:
    body = "import sys\nprint('\\udc80 half')\nsys.stdout.buffer.write(b'\\xff raw\\n')\nprint('nul\\0here')"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert result.out.splitlines()[:2] == ["[rank 0] \\udc80 half", "[rank 0] \ufffd raw"]
    assert re.fullmatch(r"\[rank 0\] nul.?here", result.out.splitlines()[2])


def test_endless_line_in_a_live_page_is_bounded(new_kernel: Callable[..., Kernel], tmp_path: Path) -> None:
    live = new_kernel(env={"JPY_SESSION_NAME": str(tmp_path / "a.ipynb")})
    live.run("%load_ext ipyelastic")
    result = live.run("%%elastic_run -n 1\nfor _ in range(100): print('x' * 1_000_000, end='')\n5", 120)
    assert result.value == "[0: 5]", result.text[-500:]
    assert len(result.out) < 40_000_000


# ------------------------------------------------------------------------------ objects whose own code is in the way


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("lambda: raise_it(ValueError('I stay'))", "ValueError: I stay"),
        ("lambda: sys.exit(3)", "SystemExit: 3"),
        ("lambda: raise_it(GeneratorExit())", "GeneratorExit"),
        ("lambda: raise_it(ValueError('x' * 100_000))", f"ValueError: {'x' * 297}..."),
        ("lambda: 5", "PicklingError: __reduce__ must return a string or tuple, not int"),
    ],
)
def test_object_that_refuses_to_be_packed_is_named(kernel: Kernel, do: str, reason: str) -> None:
    assert kernel.run(f"odd = AtPack({do})").ok
    result = kernel.run("%%elastic_run -n 2\nprint('ran')\nodd")
    assert seen(result).startswith("UnpicklableError: odd (AtPack), used in Cell In[this], line 3, cannot be pickled: ")
    assert result.error_value.partition("cannot be pickled: ")[2].partition(";")[0].startswith(reason[:40])
    assert result.out == ""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('not here')", "ValueError: not here"),
        ("import sys; sys.exit(5)", "it exited with code 5 and left no traceback"),
        ("import os; os._exit(9)", "it exited with code 9 and left no traceback"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL after T s; it left no Python traceback"),
    ],
)
def test_object_that_fails_to_load_in_the_rank_is_the_ranks_failure(kernel: Kernel, code: str, words: str) -> None:
    assert kernel.run(f"odd = AtLoad({code!r})").ok
    result = kernel.run("%%elastic_run -n 2\nodd")
    assert re.sub(r"after [\d.]+ s", "after T s", what(result)).startswith(words)


def _in_rank(body: str) -> str:
    return (
        f"%%elastic_run -n 2\nimport os, sys, time\nclass Odd:\n    def __reduce__(self): {body}\nOdd() if rank else 1"
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(4)", "it exited with code 4 and left no traceback"),
        ("os._exit(4)", "it exited with code 4 and left no traceback"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (Cell In[this], line 4)"),
        ("return exec, ('raise ValueError(1)',)", "it returned a value that could not be loaded here: ValueError: 1"),
        ("return sys.exit, (4,)", "it returned a value that could not be loaded here: SystemExit: 4"),
        ("return exec, ('raise KeyboardInterrupt',)",
         "it returned a value that could not be loaded here: KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_value_that_ends_whoever_touches_it_is_its_ranks_failure(kernel: Kernel, body: str, words: str) -> None:
    assert what(kernel.run(_in_rank(body))) == words


def test_value_that_cannot_be_pickled_is_a_short_note(kernel: Kernel) -> None:
    result = kernel.run(_in_rank("raise ValueError('x' * 100_000)"))
    assert result.ok, result.text
    note = f"note: the value of rank 1 (Odd) cannot be pickled and stayed there: {'x' * 297}...\n"
    assert result.out == note
    assert len(result.value or "") < 1000


def test_interrupt_ends_a_rank_that_hangs_while_its_value_is_packed(kernel: Kernel, tmp_path: Path) -> None:
    sent = kernel.send(_in_rank(f"mark({str(tmp_path / 'up')!r}); time.sleep(3600)"))
    wait_until((tmp_path / "up").exists, 20)
    kernel.interrupt()
    result = kernel.collect(sent, 20)
    assert seen(result) == "KeyboardInterrupt: all 2 ranks were stopped"


@pytest.mark.parametrize("moment", ["packing", "loading"])
def test_one_interrupt_ends_a_loop_in_an_objects_own_code(kernel: Kernel, tmp_path: Path, moment: str) -> None:
    up = tmp_path / "up"
    assert kernel.run(f"def loop():\n    mark({str(up)!r})\n    while True: pass\nodd = AtPack(loop)").ok
    if moment == "packing":
        sent = kernel.send("%%elastic_run -n 2\nodd")
    else:
        body = "if rank == 0:\n    import signal; signal.pause()\n"
        body += "class Odd:\n    def __reduce__(self): return loop, ()\nOdd()"
        sent = kernel.send(f"%%elastic_run -n 2\n{body}")
    wait_until(up.exists, 20)
    assert int(up.read_text() or kernel.pid) == kernel.pid
    kernel.interrupt()
    assert seen(kernel.collect(sent, 20)) == "KeyboardInterrupt: all 2 ranks were stopped"
    assert kernel.value("ipyelastic.last_run().status") == "stopped"


_BUSY = " still waits in an object's own code (__reduce__, __setstate__), in a thread that goes when it returns"


@pytest.mark.parametrize(("moment", "presses"), [("packing", 1), ("loading", 2)])
def test_interrupts_leave_an_object_behind_that_waits_in_c(
    kernel: Kernel, tmp_path: Path, moment: str, presses: int
) -> None:
    up, ranks = tmp_path / "up", tmp_path / "rank-0"
    with Gate(tmp_path / "gate") as gate:
        made = kernel.run(
            f"def waits():\n    mark({str(up)!r})\n    open({gate.path!r}, 'rb').close()\n    return int, ()\n"
            "odd = AtPack(waits)"
        )
        assert made.ok, made.text
        if moment == "packing":
            sent, busy = kernel.send("%%elastic_run -n 2\nodd"), "packing the call"
        else:
            body = f"if rank == 0:\n    mark({str(ranks)!r})\n    import signal; signal.pause()\n"
            body += "class Odd:\n    def __reduce__(self): return waits, ()\nOdd()"
            sent, busy = kernel.send(f"%%elastic_run -n 2\n{body}"), "loading the value of rank 1"
            wait_until(ranks.exists, 20)
        wait_until(up.exists, 20)
        for _ in range(presses):
            kernel.interrupt()
        result = kernel.collect(sent, 30)
        assert seen(result) == f"KeyboardInterrupt: all 2 ranks were stopped; {busy}{_BUSY}"
        if moment == "loading":
            wait_until(lambda: not is_running(int(ranks.read_text())), 10, "the ranks gone")
        assert kernel.run("%elastic_run -n 2 rank").value == "[0: 0, 1: 1]"
    wait_until(lambda: kernel.value("_threads()") == [], 20, "the thread gone")


def test_instances_of_a_class_and_of_its_new_definition_travel_side_by_side(kernel: Kernel, ranks: Ranks) -> None:
    assert kernel.run("class Re:\n    v = 1\n    def tell(self): return self.v\nold = Re()").ok
    assert kernel.run("class Re:\n    v = 2\n    def tell(self): return self.v * 10\nnew = Re()").ok
    assert ranks("(old.tell(), new.tell(), isinstance(old, Re), isinstance(new, Re))") == [(1, 20, False, True)]
    assert kernel.run("%%elastic_run -n 2 -o got\n(old, new)").ok
    assert (
        kernel.value("[(a.tell(), b.tell(), type(a) is type(old), type(b) is Re) for a, b in got]")
        == [(1, 20, True, True)] * 2
    )


def test_launch_inside_a_rank_works_and_leaves_nothing(kernel: Kernel, ranks: Ranks) -> None:
    body = "import ipyelastic\nlist(ipyelastic.launch(lambda: int(__import__('os').environ['RANK']), nproc=2).result())"
    assert ranks(body, "-n 2") == [[0, 1], [0, 1]]


def test_run_that_a_rank_leaves_alive_ends_with_the_rank(kernel: Kernel, tmp_path: Path) -> None:
    body = f"import ipyelastic, signal\ndef inner(): mark({str(tmp_path / 'in')!r}); signal.pause()\n"
    body += "run = ipyelastic.launch(inner, nproc=1)"
    body += f"\nwhile not os.path.exists({str(tmp_path / 'in')!r}): time.sleep(0.01)"
    assert kernel.run(f"%%elastic_run -n 1\n{body}").ok
    wait_until(lambda: not is_running(int((tmp_path / "in").read_text())), 10, "the inner rank gone")


# ----------------------------------------------------------------------------------------------------- big results


@pytest.mark.slow
def test_two_gigabytes_come_home(kernel: Kernel) -> None:
    """An array's buffer is mapped, not copied: the notebook's own memory does not grow by it."""
    pytest.importorskip("numpy")
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 12 << 30:
        pytest.skip("needs 12 GiB of memory")
    kernel.run("import resource, numpy\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20")
    before = kernel.value("peak()")
    result = kernel.run("%%elastic_run -n 2 -o got\nimport numpy as np\nnp.full(125_000_000, float(rank))", 300)
    assert result.ok, result.text
    assert kernel.value("[(g.nbytes, float(g[0]), float(g[-1])) for g in got]") == [
        (1_000_000_000, 0.0, 0.0),
        (1_000_000_000, 1.0, 1.0),
    ]
    assert kernel.value("peak()") - before < 0.5
    kernel.run("del got")


def test_long_text_is_shown_short_without_being_spelt_out(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\n'x' * 50_000_000")
    assert result.value == f"[0: '{'x' * 196}...]"


# ------------------------------------------------------------------------------------------------------- log folders


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte; mounting takes root."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_log_dir_is_refused_at_the_door(kernel: Kernel, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(bytes((1 << 20) - (32 << 10)))
    result = kernel.run(f"%%elastic_run -n 2 --log-dir {small_disk}\nprint('ran')")
    assert result.out == f"UsageError: log_dir='{small_disk}': No space left on device\n"


def test_log_dir_that_fills_up_is_told_with_the_line_that_met_it(kernel: Kernel, small_disk: Path) -> None:
    result = kernel.run(f"%%elastic_run -n 2 --log-dir {small_disk}\nfor _ in range(500): print('x' * 9_999)")
    assert seen(result).splitlines()[1:4] == [
        "  what    OSError: [Errno 28] No space left on device (Cell In[this], line 2)",
        "  likely  a disk is full: that of the log files, or one that the code writes to",
        "  do      make room (`df -h`), or keep the log files elsewhere with --log-dir",
    ]
    assert f"note: the disk of {small_disk} is full: output may be missing there and here\n" in result.out


def test_rank_that_does_not_look_lives_on_and_a_note_tells_of_the_full_disk(kernel: Kernel, small_disk: Path) -> None:
    body = "import os\n_ = os.system('head -c 2000000 /dev/zero 2>/dev/null')\nrank * 10"
    result = kernel.run(f"%%elastic_run -n 2 --log-dir {small_disk}\n{body}")
    assert result.value == "[0: 0, 1: 10]", result.text[:500]
    assert f"note: the disk of {small_disk} is full: output may be missing there and here\n" in result.out


def test_limit_on_files_is_told(kernel: Kernel) -> None:
    body = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nprint('x' * 9_999)"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert seen(result).splitlines()[1:] == [
        "  what    OSError: [Errno 27] File too large (Cell In[this], line 4)",
        "  likely  a limit on the size of files (`ulimit -f`), which log files count under",
        "  do      raise the limit, or print less",
    ]


_ALL_TAKEN = """
import os, resource
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
try:
    while True: taken.append(os.open('/dev/null', os.O_RDONLY))
except OSError: pass
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_rank_without_a_descriptor_left_has_its_last_word(kernel: Kernel, start_method: str) -> None:
    result = kernel.run(f"%%elastic_run -n 1 --start-method {start_method} -o got\n{_ALL_TAKEN}\nbytes(1 << 20)")
    assert result.ok, result.text
    assert kernel.value("len(got[0])") == 1 << 20
    result = kernel.run(f"%%elastic_run -n 1 --start-method {start_method}\n{_ALL_TAKEN}\nopen('/dev/zero')")
    assert "OSError: [Errno 24] Too many open files: '/dev/zero'" in result.traceback


def test_log_dir_that_vanishes_in_mid_run_harms_nobody(kernel: Kernel, tmp_path: Path) -> None:
    where = tmp_path / "logs"
    body = (
        "import os, shutil, time\n"
        f"open(f'{tmp_path}/up-{{rank}}', 'w').close()\n"
        f"while not os.path.exists(f'{tmp_path}/up-{{1 - rank}}'): time.sleep(0.005)\n"  # both have their log files
        f"if rank == 0: shutil.rmtree({str(where)!r})\nprint('after', rank)\nrank"
    )
    result = kernel.run(f"%%elastic_run -n 2 --log-dir {where}\n{body}")
    assert result.value == "[0: 0, 1: 1]", result.text
    result = kernel.run(f"%%elastic_run -n 1 --log-dir {where}\nimport shutil\nshutil.rmtree({str(where)!r})\n1 / 0")
    assert what(result) == "ZeroDivisionError: division by zero (Cell In[this], line 4)"
