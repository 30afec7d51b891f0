"""What surrounds a rank: the notebook's folder, environment and limits; random numbers; no keyboard; children."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


def test_torchruns_environment_is_set(ranks: Ranks) -> None:
    body = (
        "import os\n[os.environ[n] for n in ('RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE "
    )
    body += "ROLE_RANK ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS "
    body += "TORCHELASTIC_USE_AGENT_STORE JAX_PROCESS_ID JAX_NUM_PROCESSES').split()]"
    rest = ["default_role", "127.0.0.1", "0", "0", "False"]
    assert ranks(body, "-n 2") == [[rank, rank, "2", "2", "0", "1", rank, "2", *rest, rank, "2"] for rank in ("0", "1")]


def test_all_ranks_agree_on_the_port_and_the_run(ranks: Ranks) -> None:
    body = "import os\n[os.environ[n] for n in ('MASTER_PORT', 'TORCHELASTIC_RUN_ID', 'JAX_COORDINATOR_ADDRESS')]"
    first, second = ranks(body, "-n 2")
    assert first == second
    assert first[2] == f"127.0.0.1:{first[0]}"
    again = ranks(body)[0]
    assert again[1] != first[1]


def test_notebooks_figures_backend_and_jupyters_names_stay_out(kernel: Kernel, ranks: Ranks) -> None:
    kernel.run("import os\nos.environ['JPY_MADE_UP'] = '1'")
    body = "import os\n(os.environ['MPLBACKEND'], [n for n in os.environ if n.startswith('JPY_')])"
    assert ranks(body) == [("agg", [])]
    assert ranks(body, "-n 1 --env MPLBACKEND=svg")[0][0] == "svg"


def test_standard_input_is_empty(ranks: Ranks) -> None:
    assert ranks("import sys, os\n(sys.stdin.read(), os.read(0, 10), os.isatty(0))") == [("", b"", False)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "input('name? ')",
            "EOFError: input() has nobody to ask inside a rank:"
            " pass the value in as a notebook variable, or use --engine here",
        ),
        (
            "breakpoint()",
            "RuntimeError: breakpoint() has no terminal inside a rank: print, or use --engine here",
        ),
    ],
)
def test_input_and_breakpoint_say_that_nobody_is_there(kernel: Kernel, body: str, words: str) -> None:
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert not result.ok
    assert result.traceback.splitlines()[-1] == words


def test_folder_of_the_notebook_is_the_ranks_as_it_is_now(kernel: Kernel, ranks: Ranks, tmp_path: Path) -> None:
    kernel.run("import os\nbefore = os.getcwd()")
    try:
        kernel.run(f"os.chdir({str(tmp_path)!r})")
        (tmp_path / "data.txt").write_text("here")
        assert ranks("import os\n(os.getcwd(), open('data.txt').read())") == [(str(tmp_path), "here")]
    finally:
        kernel.run("os.chdir(before)")


@pytest.mark.parametrize(
    ("change", "look", "value", "undo"),
    [
        ("former = os.umask(0o027)", "import os\nnow = os.umask(0)\nnow", 0o027, "os.umask(former)"),
        (
            (
                "former = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
                "resource.setrlimit(resource.RLIMIT_NOFILE, (777, former[1]))"
            ),
            "import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)[0]",
            777,
            "resource.setrlimit(resource.RLIMIT_NOFILE, former)",
        ),
        ("sys.path.append('/put/here')", "import sys\nsys.path[-1]", "/put/here", "sys.path.remove('/put/here')"),
        ("os.environ['PUT_HERE'] = 'ü'", "import os\nos.environ['PUT_HERE']", "ü", "del os.environ['PUT_HERE']"),
        ("os.environ['TZ'] = 'Asia/Tokyo'", "import time\ntime.localtime(0).tm_hour", 9, "del os.environ['TZ']"),
        ("home = os.environ.pop('HOME')", "import os\n'HOME' in os.environ", False, "os.environ['HOME'] = home"),
    ],
)
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_changes_made_in_the_notebook_are_seen(
    kernel: Kernel, ranks: Ranks, start_method: str, change: str, look: str, value: Any, undo: str
) -> None:
    assert kernel.run(f"import os, sys, resource\n{change}").ok
    try:
        assert ranks(look, f"-n 1 --start-method {start_method}") == [value]
    finally:
        kernel.run(undo)


def test_what_a_rank_changes_does_not_reach_the_next_run(ranks: Ranks) -> None:
    ranks("import os, sys\nos.environ['STRAY'] = '1'\nos.chdir('/')\nsys.path.insert(0, '/stray')\nos.umask(0o777)")
    body = "import os, sys\n('STRAY' in os.environ, os.getcwd() == '/', '/stray' in sys.path, os.umask(0) == 0o777)"
    assert ranks(body) == [(False, False, False, False)]


# ------------------------------------------------------------------------------------------------------- random numbers

_DRAW = "import random\nimport numpy as np\n(random.random(), float(np.random.rand()))"


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_random_numbers_differ_between_ranks_and_runs(kernel: Kernel, ranks: Ranks, start_method: str) -> None:
    options = f"-n 2 --start-method {start_method}"
    drawn = [*ranks(_DRAW, options), *ranks(_DRAW, options)]
    assert len({first for first, _ in drawn}) == 4
    assert len({second for _, second in drawn}) == 4


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_torchs_random_numbers_differ_between_ranks_and_runs(
    new_kernel: Callable[..., Kernel], start_method: str
) -> None:
    """Where torch was loaded before the fork, too: its generator is one process's, however many come of it."""
    pytest.importorskip("torch")
    kernel = new_kernel()
    assert kernel.run("%load_ext ipyelastic\nimport torch").ok
    drawn = []
    for _ in range(2):
        result = kernel.run(f"%%elastic_run -n 2 --start-method {start_method} -o got\ntorch.rand(1).item()")
        assert result.ok, result.text
        drawn += kernel.value("list(got)")
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_seed_makes_random_numbers_repeatable(kernel: Kernel, ranks: Ranks, start_method: str) -> None:
    import random

    import numpy as np

    drawn = ranks(_DRAW, f"-n 2 --seed 5 --start-method {start_method}")
    expected = [(random.Random(5 + rank).random(), float(np.random.RandomState(5 + rank).rand())) for rank in (0, 1)]
    assert drawn == expected


def test_seed_holds_when_the_notebook_has_numpy_already(kernel: Kernel, ranks: Ranks) -> None:
    import numpy as np

    assert kernel.run("import numpy as np").ok
    try:
        expected = [float(np.random.RandomState(3 + rank).rand()) for rank in (0, 1)]
        for _ in range(2):  # before and after the warm server has numpy
            assert ranks("float(np.random.rand())", "-n 2 --seed 3") == expected
    finally:
        kernel.run("del np")


def test_kernels_own_random_numbers_are_not_touched(kernel: Kernel, ranks: Ranks) -> None:
    kernel.run("import random\nstate = random.getstate()")
    ranks("import random\nrandom.random()", "-n 1 --seed 1")
    assert kernel.value("random.getstate() == state") is True


# ------------------------------------------------------------------------------------------------------------- children


def test_pool_of_processes_works_inside_a_rank(kernel: Kernel, ranks: Ranks) -> None:
    kernel.run("def square(n): return n * n")
    body = "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
    body += "    out = pool.map(square, range(4))\nout"
    assert ranks(body, "-n 2") == [[0, 1, 4, 9]] * 2


def test_process_pool_executor_works_inside_a_rank(kernel: Kernel, ranks: Ranks) -> None:
    kernel.run("def cube(n): return n ** 3")
    body = "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
    body += "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
    body += "    out = list(pool.map(cube, range(3)))\nout"
    assert ranks(body) == [[0, 1, 8]]


def test_threads_of_a_rank_are_waited_for_and_their_pool_works(kernel: Kernel) -> None:
    body = "from concurrent.futures import ThreadPoolExecutor\nimport threading\npool = ThreadPoolExecutor(2)\n"
    body += "def late():\n    print('late word')\nthreading.Thread(target=late).start()\nlist(pool.map(str, range(3)))"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert (result.ok, result.out, result.value) == (True, "[rank 0] late word\n", "[0: ['0', '1', '2']]"), result.text


def test_exit_handlers_of_the_body_run_and_may_print(kernel: Kernel) -> None:
    result = kernel.run("%%elastic_run -n 1\nimport atexit\natexit.register(print, 'bye')\n1")
    assert (result.out, result.value) == ("[rank 0] bye\n", "[0: 1]")


def test_subprocess_of_a_rank_has_its_environment_and_no_session_of_the_kernel(kernel: Kernel, ranks: Ranks) -> None:
    body = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"RANK\"])'],"
    body += " capture_output=True, text=True).stdout.strip()"
    assert ranks(body, "-n 2") == ["0", "1"]


def test_logging_and_warnings_go_to_stderr(kernel: Kernel) -> None:
    body = "import logging, warnings\nlogging.warning('logged')\nwarnings.warn('warned')"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert result.ok, result.text
    lines = result.out.splitlines()
    assert lines[0] == "[rank 0 stderr] WARNING:root:logged"
    assert lines[1].endswith(": UserWarning: warned")
    assert lines[1].startswith("[rank 0 stderr] ")
    assert lines[2] == "[rank 0 stderr]   warnings.warn('warned')"


def test_logging_set_up_in_the_notebook_is_not_in_the_way(kernel: Kernel) -> None:
    kernel.run("import logging\nlogging.basicConfig(force=True)\nlogger = logging.getLogger('mine')")
    result = kernel.run("%%elastic_run -n 1\nlogger.error('said')\nprint('out')")
    assert result.ok, result.text
    assert "[rank 0] out" in result.out
    assert "said" in result.out


def test_logging_at_info_shows_the_notebooks_own_words_only(kernel: Kernel) -> None:
    kernel.run("import logging\nlogging.basicConfig(force=True, level='INFO')")
    try:
        result = kernel.run("%%elastic_run -n 2\nprint('out')")
        assert sorted(result.out.splitlines()) == ["[rank 0] out", "[rank 1] out"]
    finally:
        kernel.run("logging.basicConfig(force=True, level='WARNING')")


def test_kernels_own_options_are_not_the_ranks(kernel: Kernel, ranks: Ranks) -> None:
    argv = kernel.value("__import__('sys').argv")
    assert len(argv) > 1
    assert ranks("import sys\nsys.argv") == [argv[:1]]
    assert kernel.value("list(__import__('ipyelastic').launch(lambda: __import__('sys').argv, nproc=1).result())") == [
        argv[:1]
    ]
