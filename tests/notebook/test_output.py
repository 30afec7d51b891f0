"""What ranks write, under the cell: while it runs, in whole lines, each with its rank; bounded only for live pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.kernels import Kernel


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def test_output_is_shown_while_the_cell_runs(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"import pathlib\ngo = pathlib.Path({str(tmp_path / 'go')!r})")
    body = (
        "import threading\nprint('first', rank)\n"
        "while not go.exists(): threading.Event().wait(0.005)\nprint('second', rank)"
    )
    sent = kernel.send(f"%%elastic_run -n 2\n{body}")
    first = kernel.collect(sent, until="[rank 1] first 1")
    assert "second" not in first.out
    (tmp_path / "go").touch()
    rest = kernel.collect(sent)
    assert rest.ok
    assert sorted((first.out + rest.out).splitlines()) == [
        f"[rank {rank}] {word} {rank}" for rank in (0, 1) for word in ("first", "second")
    ]


def test_stderr_is_shown_while_the_cell_runs_and_is_marked(kernel: Kernel, tmp_path: Path) -> None:
    kernel.run(f"import pathlib\ngo = pathlib.Path({str(tmp_path / 'go')!r})")
    body = (
        "import sys, threading\nprint('careful', file=sys.stderr)\nwhile not go.exists(): threading.Event().wait(0.005)"
    )
    sent = kernel.send(f"%%elastic_run -n 1\n{body}")
    assert kernel.collect(sent, until="careful").out == "[rank 0 stderr] careful\n"
    (tmp_path / "go").touch()
    assert kernel.collect(sent).ok


def test_lines_of_several_ranks_are_never_mixed(kernel: Kernel) -> None:
    body = "for n in range(500):\n    print(f'{n:04}', str(rank) * 400)"
    result = kernel.run(f"%%elastic_run -n 4\n{body}")
    assert result.ok
    expected = [f"[rank {rank}] {n:04} {str(rank) * 400}" for rank in range(4) for n in range(500)]
    lines = result.out.splitlines()
    assert sorted(lines) == expected
    for rank in range(4):
        own = [line for line in lines if line.startswith(f"[rank {rank}]")]
        assert own == sorted(own)


def test_every_line_is_there_when_nobody_watches(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2\nfor n in range(20_000 if rank else 10): print('line', n)")
    assert result.ok
    lines = result.out.splitlines()
    assert [line for line in lines if "[rank 1]" in line] == [f"[rank 1] line {n}" for n in range(20_000)]
    assert [line for line in lines if "[rank 0]" in line] == [f"[rank 0] line {n}" for n in range(10)]


@pytest.mark.slow
def test_flood_is_bounded_for_a_live_page_and_says_where_the_rest_is(new_kernel: Callable[..., Kernel]) -> None:
    live = new_kernel(env={"JPY_SESSION_NAME": "x.ipynb"})
    live.run("%load_ext ipyelastic")
    result = live.run("%%elastic_run -n 2 --ui text\nfor n in range(20_000): print('line', n)\nrank")
    assert result.value == "[0: 0, 1: 1]"
    lines = result.out.splitlines()
    assert 100 < len(lines) < 5000
    for rank in (0, 1):
        assert f"[rank {rank}] line 19999" in lines
        (path,) = {
            m[1]
            for m in map(re.compile(rf"\[rank {rank}\] \.\.\. [\d,]+ lines? not shown here, see (.*)").match, lines)
            if m
        }
        assert Path(path).read_text().splitlines() == [f"line {n}" for n in range(20_000)]
        assert live.value(f"__import__('ipyelastic').last_run().ranks[{rank}].stdout_path") == path
    few = live.run("%%elastic_run -n 2 --ui text\nfor n in range(50): print('line', n)")
    assert len(few.out.splitlines()) == 100


def test_progress_bar_does_not_flood(kernel: Kernel) -> None:
    body = "import sys\nfor n in range(5001):\n    print(f'\\rstep {n}/5000', end='', file=sys.stderr, flush=True)\n"
    result = kernel.run(f"%%elastic_run -n 2\n{body}print(file=sys.stderr)")
    assert result.ok
    lines = result.out.splitlines()
    assert len(lines) < 20
    for rank in (0, 1):
        own = [line for line in lines if line.startswith(f"[rank {rank} stderr] ")]
        assert own[-1] == f"[rank {rank} stderr] step 5000/5000"
        assert all(re.fullmatch(rf"\[rank {rank} stderr\] step \d+/5000", line) for line in own)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("import os\n_ = os.system('echo from the shell')", "from the shell"),
        ("import subprocess\n_ = subprocess.run(['echo', 'from a child'])", "from a child"),
        ("import ctypes\n_ = ctypes.CDLL(None).puts(b'from C')", "from C"),
        ("import ctypes\n_ = ctypes.CDLL(None).printf(b'half from C')", "half from C"),
        ("import os\n_ = os.write(1, b'from the descriptor\\n')", "from the descriptor"),
        ("import sys\n_ = sys.__stdout__.write('from the original\\n')", "from the original"),
        ("print('half a line', end='')", "half a line"),
        ("print('ü 漢字 🎉 é')", "ü 漢字 🎉 é"),
        ("import os\n_ = os.write(1, b'bad \\xff byte\\n')", "bad \ufffd byte"),
        ("import os\n_ = os.write(1, 'ü'.encode()[:1])\n_ = os.write(1, 'ü'.encode()[1:] + b'\\n')", "ü"),
        ("print('a\\tb')", "a\tb"),
        ("print('x' * 200_000)", "x" * 200_000),
        ("import sys\nsys.stdout.buffer.write(b'raw\\n') and None", "raw"),
        ("print('with\\r\\nreturn')", "with\n[rank 0] return"),
        (
            "import os\nif os.fork() == 0:\n    print('from a fork', flush=True)\n    os._exit(0)\n_ = os.wait()",
            "from a fork",
        ),
        ("print('no\\x00 control \\x1b]0;title\\x07codes')", "no control codes"),
    ],
)
def test_everything_that_is_written_is_shown(kernel: Kernel, body: str, line: str) -> None:
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert result.ok, result.text
    assert result.out == f"[rank 0] {line}\n"


def test_stderr_of_c_and_children_is_marked(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nimport os\nos.write(2, b'low\\n')\n_ = os.system('echo child >&2')")
    assert result.out == "[rank 0 stderr] low\n[rank 0 stderr] child\n"


def test_only_the_chosen_ranks_are_shown_and_all_run(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 4 --ranks 1,3\nprint('word')\nrank")
    assert sorted(result.out.splitlines()) == ["[rank 1] word", "[rank 3] word"]
    assert result.value == "[0: 0, 1: 1, 2: 2, 3: 3]"


def test_elastic_logs_shows_a_rank_that_was_not_shown(kernel: Kernel) -> None:
    kernel.run("%%elastic_run -n 2 --ranks 0\nprint('hidden word', rank)")
    result = kernel.run("%elastic_logs 1")
    first, *paths = result.out.splitlines()
    assert first == "hidden word 1"
    assert [path.partition(": ")[0] for path in paths] == ["stdout", "stderr"]
    assert Path(paths[0].partition(": ")[2]).read_text() == "hidden word 1\n"


def test_last_words_before_a_crash_are_shown(kernel: Kernel) -> None:
    body = "import os\nprint('last words')\nprint('half a word', end='', flush=True)\nos._exit(9)"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert not result.ok
    assert result.out == "[rank 0] last words\n[rank 0] half a word\n"


def test_output_of_a_cell_without_output_is_empty(kernel: Kernel) -> None:
    assert kernel.run("%%elastic_run -n 2\nx = 1").out == ""


def test_output_arrives_in_few_messages(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nfor n in range(20_000): print(n)")
    streams = [one for one in result.messages if one["msg_type"] == "stream"]
    assert len(streams) < 200
