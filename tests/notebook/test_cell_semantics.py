"""What a cell means in a rank: one namespace, notebook names as of now, the last expression as the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def defined(kernel: Kernel, code: str) -> None:
    result = kernel.run(code)
    assert result.ok, result.text


# --------------------------------------------------------------------------------------------------- one namespace


def test_notebook_function_sees_the_global_that_the_body_assigns(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "level = 'notebook'\ndef read_level(): return level")
    assert ranks("level = f'rank {rank}'\nread_level()", "-n 2") == ["rank 0", "rank 1"]


def test_notebook_function_may_set_a_global_that_the_body_reads(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "def put():\n    global placed\n    placed = 7")
    assert ranks("put()\nplaced") == [7]


def test_functions_of_two_cells_share_the_globals_of_the_rank(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "counted = 0\ndef count():\n    global counted\n    counted += 1")
    defined(kernel, "def counted_now(): return counted")
    assert ranks("count(); count()\n(counted_now(), counted)") == [(2, 2)]
    assert kernel.value("counted") == 0


def test_body_is_the_main_module(ranks: Ranks) -> None:
    body = "import sys\nmine = 3\n(__name__, vars(sys.modules['__main__'])['mine'], 'mine' in globals())"
    assert ranks(body) == [("__main__", 3, True)]


def test_main_guard_in_the_body_runs(ranks: Ranks) -> None:
    assert ranks("done = False\nif __name__ == '__main__':\n    done = True\ndone") == [True]


@pytest.mark.parametrize(
    "body",
    [
        "(lambda: outside)()",
        "[outside for _ in range(1)][0]",
        "{key: outside for key in 'a'}['a']",
        "next(outside for _ in range(1))",
        "def inner():\n    def deeper(): return outside\n    return deeper()\ninner()",
        "class Holder:\n    kept = outside\n    def get(self): return outside\nHolder().get() and Holder.kept",
        "def late(value=outside): return value\nlate()",
        "f'{outside}' and outside",
        "async def soon(): return outside\nawait soon()",
        "match 1:\n    case 1: found = outside\nfound",
        "x = 1\nif x:\n    with open('/dev/null') as _:\n        y = outside\ny",
    ],
)
def test_names_are_found_wherever_the_body_uses_them(kernel: Kernel, ranks: Ranks, body: str) -> None:
    defined(kernel, "outside = 41")
    assert ranks(body) == [41]


def test_names_the_body_does_not_use_stay_at_home(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "import threading\nunused = threading.Lock()\nbig = bytearray(300 << 20)\nsmall = 1")
    try:
        assert ranks("('unused' in globals(), 'big' in globals(), small)") == [(False, False, 1)]
        assert ranks("class Local:\n    def big(self): return self\n(Local().big() is not None) and small") == [1]
    finally:
        defined(kernel, "del big, unused")


def test_values_are_those_of_now(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "changing = 1\ndef read_changing(): return changing")
    assert ranks("(changing, read_changing())") == [(1, 1)]
    defined(kernel, "changing = 2")
    assert ranks("(changing, read_changing())") == [(2, 2)]


def test_what_the_body_assigns_stays_in_the_rank(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "numbers = [1, 2]\nname = 'old'")
    body = "numbers.append(3)\nname = 'new'\nbrand_new = 1\ndef made(): pass\nclass Made: pass\ndel numbers\nname"
    assert ranks(body) == ["new"]
    assert kernel.value("(numbers, name, 'brand_new' in globals(), 'made' in globals())") == (
        [1, 2],
        "old",
        False,
        False,
    )


def test_two_runs_share_nothing(ranks: Ranks) -> None:
    ranks("first_run_only = 1")
    assert ranks("'first_run_only' in globals()") == [False]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(12)", 144),
        ("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\neven(10)", True),
        (
            (
                "class Node:\n    def __init__(self, n): self.next = Node(n - 1) if n else None\n"
                "Node(3).next.next is not None"
            ),
            True,
        ),
        (
            (
                "class A:\n    def who(self): return 'A'\nclass B(A):\n"
                "    def who(self): return 'B' + super().who()\nB().who()"
            ),
            "BA",
        ),
        ("total = 0\nfor step in range(4): total += step\ntotal", 6),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 2\nP().x", 2),
        ("def gen():\n    yield 1\n    yield from (2, 3)\nlist(gen())", [1, 2, 3]),
        ("x: int = 5\n__annotations__ == {'x': int}", True),
    ],
)
def test_body_may_define_what_a_module_may(ranks: Ranks, body: str, value: Any) -> None:
    assert ranks(body) == [value]


# ------------------------------------------------------------------------------------------------ the last expression


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("rank + 1", "[0: 1, 1: 2]"),
        ("rank + 1;", None),
        ("rank + 1 ;  # quiet", None),
        ("rank + 1  # not; quiet", "[0: 1, 1: 2]"),
        ("rank + 1\n# a comment after it\n\n", "[0: 1, 1: 2]"),
        ("rank;\n# a comment after it\n", None),
        ("'a;'", "[0: 'a;', 1: 'a;']"),
        ("x = rank", None),
        ("rank\nx = 1", None),
        ("if True:\n    rank", None),
        ("1; rank", "[0: 0, 1: 1]"),
        ("None", None),
        ("None if rank else 0", "[0: 0, 1: None]"),
        ("(\n  rank +\n  1\n)", "[0: 1, 1: 2]"),
        ("'''two\nlines'''", "[0: 'two\\nlines', 1: 'two\\nlines']"),
        ("# only a comment", None),
        ("pass", None),
        ("\n\n\nrank", "[0: 0, 1: 1]"),
    ],
)
def test_last_expression_is_the_value(kernel: Kernel, body: str, shown: str | None) -> None:
    result = kernel.run(f"%%elastic_run -n 2\n{body}")
    assert (result.ok, result.out, result.value) == (True, "", shown), result.text


def test_values_are_bound_to_the_underscore_and_are_a_list(kernel: Kernel) -> None:
    assert kernel.run("%%elastic_run -n 2\nrank * 2").ok
    assert kernel.value("(_ == [0, 2], isinstance(_, list), _[1])") == (True, True, 2)


def test_long_values_are_shown_short(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\n'x' * 1000")
    assert result.value == "[0: '" + "x" * 196 + "...]"


# ------------------------------------------------------------------------------------------------- await and shell


@pytest.mark.parametrize(
    "body",
    [
        "import asyncio\nawait asyncio.sleep(0)\nrank + 1",
        "import asyncio\nasync def one():\n    await asyncio.sleep(0)\n    return rank + 1\nawait one()",
        "import asyncio\nsum(await asyncio.gather(*[asyncio.sleep(0, rank + 1)]))",
        "async def numbers():\n    yield rank\n    yield 1\nsum([n async for n in numbers()])",
        "import contextlib\n@contextlib.asynccontextmanager\nasync def held():\n    yield rank + 1\n"
        "async with held() as kept:\n    pass\nkept",
    ],
)
def test_await_works_at_the_top_level(ranks: Ranks, body: str) -> None:
    assert ranks(body, "-n 2") == [1, 2]


def test_a_name_awaited_before_is_there_for_functions(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "def read_awaited(): return awaited")
    assert ranks("import asyncio\nawaited = await asyncio.sleep(0, 5)\nread_awaited()") == [5]


def test_shell_command_prints_under_its_rank(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 2\n!echo shell of $RANK\n!echo {rank} and $rank and {rank + 1}")
    assert result.ok, result.text
    assert sorted(result.out.splitlines()) == [
        "[rank 0] 0 and 0 and 1",
        "[rank 0] shell of 0",
        "[rank 1] 1 and 1 and 2",
        "[rank 1] shell of 1",
    ]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("lines = !echo one; echo two\nlist(lines)", ["one", "two"]),
        ("who = 'me'\nlines = !echo {who} $who\nlist(lines)", ["me me"]),
        ("def inside(word):\n    lines = !echo {word}\n    return lines[0]\ninside('deep')", "deep"),
        ("!exit 3\n_exit_code", 3),
        ("text = !printf 'a b'\ntext[0]", "a b"),
        ("import os\n!cd /\nos.getcwd() != '/'", True),
        ("lines = !echo '{not_a_name}'\nlines[0]", "{not_a_name}"),
        ("lines = !echo $HOME\nbool(lines[0])", True),
    ],
)
def test_shell_commands_give_lines_and_see_variables(ranks: Ranks, body: str, value: Any) -> None:
    assert ranks(body) == [value]


def test_shell_command_expands_notebook_variables(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "folder_name = 'data'")
    assert ranks("lines = !echo {folder_name}/x $folder_name\nlines[0]") == ["data/x data"]


# ---------------------------------------------------------------------------------------------------- rank and names


def test_rank_names_are_set_and_say_when_they_hide_a_notebook_variable(kernel: Kernel) -> None:
    defined(kernel, "rank = 'mine'\nworld_size = 'mine too'")
    try:
        result = kernel.run("%%elastic_run -n 2\n(rank, local_rank, world_size)")
        assert result.value == "[0: (0, 0, 2), 1: (1, 1, 2)]"
        assert sorted(result.out.splitlines()) == [
            "note: rank is the rank's own here and hides the notebook's rank",
            "note: world_size is the rank's own here and hides the notebook's world_size",
        ]
        assert kernel.value("(rank, world_size)") == ("mine", "mine too")
    finally:
        defined(kernel, "del rank, world_size")


def test_notebook_function_reads_the_ranks_own_rank(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "def whoami(): return (rank, world_size)")
    assert ranks("whoami()", "-n 2") == [(0, 2), (1, 2)]


def test_line_magic_runs_an_expression_with_notebook_names(kernel: Kernel) -> None:
    defined(kernel, "base = 100\ndef add(n): return base + n")
    assert kernel.run("%elastic_run -n 2 add(rank)").value == "[0: 100, 1: 101]"
    assert kernel.run("%elastic_run -n 2 add(rank);").value is None
    assert kernel.run("%elastic_run -n 2 {'a': rank}['a']").value == "[0: 0, 1: 1]"


def test_display_in_a_rank_prints(kernel: Kernel) -> None:
    assert kernel.run("%%elastic_run -n 1\ndisplay([1, 2])").out == "[rank 0] [1, 2]\n"


def test_programs_that_ask_for_a_page_hear_that_there_is_none(kernel: Kernel, ranks: Ranks) -> None:
    defined(kernel, "def has_page(): return 'IPKernelApp' in get_ipython().config")
    assert kernel.value("has_page()") is True
    assert ranks("has_page()", "-n 1") == [False]


def test_notebook_functions_may_use_the_shells_own_names(kernel: Kernel, ranks: Ranks) -> None:
    defined(
        kernel, "ip = get_ipython()\ndef said():\n    words = !echo hello\n    return words + ip.getoutput('echo you')"
    )
    defined(kernel, "def leave(when):\n    if rank in when: exit(3)\n    return type(get_ipython()).__name__")
    assert ranks("list(said())") == [["hello", "you"]]
    assert ranks("leave([])", "-n 2") == ["RankShell", "RankShell"]
    assert "exited with code 3" in kernel.run("%elastic_run -n 2 leave([1])").text


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("eval('hidden + 1')", 8),
        ("exec('made = [hidden] * 2')\nmade", [7, 7]),
        (
            "class Frame:\n    def query(self, text): return eval(text.replace('@', ''))\nFrame().query('@hidden > 3')",
            True,
        ),
        (
            "class Base:\n    def sql(self, text): return eval(text.split()[-1])\nBase().sql('SELECT a FROM hidden')",
            7,
        ),
        ("eval('1 +') if False else 1", 1),
    ],
)
def test_names_that_stand_in_a_text_only_are_seen(kernel: Kernel, ranks: Ranks, body: str, value: Any) -> None:
    defined(kernel, "hidden = 7")
    assert ranks(body) == [value]
