"""Odd surroundings: terminals, closed streams, folders that are gone or take nothing, other settings of IPython."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.kernels import Kernel
from support.left import marked_processes
from support.waiting import wait_until

pytestmark = pytest.mark.slow

_RUN = "%load_ext ipyelastic\n%elastic_run -n 2 rank"
_SHELL = [sys.executable, "-W", "ignore", "-m", "IPython", "--no-banner", "--colors", "NoColor"]


def ipython(
    *arguments: str,
    folder: Path,
    env: dict[str, str | None] | None = None,
    stdin: str | None = None,
    code: int = 0,
) -> str:
    """What a terminal IPython prints; it must end with that exit code."""
    environment = {**os.environ, "IPYTHONDIR": str(folder / ".ipython"), **(env or {})}
    clean = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [*_SHELL, *arguments],
        cwd=folder,
        env=clean,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write to, root included; mounting takes root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("may not mount a read-only folder here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("how", ["-c", "a file", "standard input"])
def test_terminal_ipython_runs_ranks(tmp_path: Path, how: str) -> None:
    if how == "-c":
        said = ipython("-c", _RUN, folder=tmp_path)
    elif how == "a file":
        (tmp_path / "go.ipy").write_text(
            "%load_ext ipyelastic\nprint(get_ipython().run_line_magic('elastic_run', '-n 2 rank'))"
        )
        said = ipython("go.ipy", folder=tmp_path)
    else:
        said = ipython(
            "--simple-prompt", folder=tmp_path, stdin=f"{_RUN}\n%%elastic_run -n 1\nprint('in', rank)\n\n\nexit\n"
        )
        assert "[rank 0] in 0" in said
    assert "[0: 0, 1: 1]" in said


def test_terminal_ipython_tells_a_failure_and_exits_with_one(tmp_path: Path) -> None:
    said = ipython("-c", "%load_ext ipyelastic\n%elastic_run -n 2 1 / 0", folder=tmp_path, code=1)
    assert "  what    ZeroDivisionError: division by zero (Cell In[1], line 1)" in said


def test_closed_standard_streams_are_no_matter(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom ipyelastic import launch\ndef rank(): return int(os.environ['RANK'])\n"
        "if __name__ == '__main__':\n    found = list(launch(rank, nproc=2).result())\n"
        f"    open({str(tmp_path / 'found')!r}, 'w').write(repr(found))\n"
    )
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} {script} <&- >&- 2>&-"], timeout=60, check=False, cwd=tmp_path
    )
    assert (done.returncode, (tmp_path / "found").read_text()) == (0, "[0, 1]")


@pytest.mark.parametrize(
    "env", [{"HOME": None}, {"TMPDIR": "/nowhere"}, {"SHELL": None, "TERM": None, "LANG": "C", "LC_ALL": "C"}]
)
def test_missing_environment_is_no_matter(tmp_path: Path, env: dict[str, str | None]) -> None:
    assert "[0: 0, 1: 1]" in ipython("-c", _RUN, folder=tmp_path, env=env)


def test_read_only_temp_and_working_folders_are_no_matter(tmp_path: Path, read_only: Path) -> None:
    env: dict[str, str | None] = {"TMPDIR": str(read_only)}
    there = f"import os; os.chdir({str(read_only)!r})\n"
    assert "[0: 0, 1: 1]" in ipython("-c", there + _RUN, folder=tmp_path, env=env)
    cells = f"{there}%load_ext ipyelastic\n%elastic_run -n 1 --log-dir here 1"
    said = ipython("-c", cells, folder=tmp_path, env=env, code=1)
    assert f"UsageError: log_dir='{read_only}/here': Read-only file system" in said


def test_log_root_that_cannot_be_is_told_with_what_to_do(tmp_path: Path, read_only: Path) -> None:
    env: dict[str, str | None] = {"IPYELASTIC_RUN_ROOT": f"{read_only}/runs"}
    said = ipython("-c", _RUN, folder=tmp_path, env=env, code=1)
    words = f"no log files in {read_only}/runs: Read-only file system; name another folder with --log-dir"
    assert f"UsageError: {words}" in said
    cells = f"%load_ext ipyelastic\n%elastic_run -n 2 --log-dir {tmp_path}/logs rank"
    assert "[0: 0, 1: 1]" in ipython("-c", cells, folder=tmp_path, env=env)


def test_shared_memory_folder_that_takes_nothing_is_no_matter(tmp_path: Path, read_only: Path) -> None:
    pytest.importorskip("numpy")
    code = "%load_ext ipyelastic\nimport numpy as np\na = np.ones(500_000)\n"
    code += "%elastic_run -n 2 float((a + rank).sum()), a.size"
    inner = f'mount --bind {read_only} /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inner, "sh", *_SHELL, "-c", code], capture_output=True, text=True, timeout=60,
        check=False, cwd=tmp_path, env={**os.environ, "IPYTHONDIR": str(tmp_path / ".ipython")},
    )  # fmt: skip
    if "unshare" in done.stderr:
        pytest.skip("may not have a mount namespace here")
    assert "[0: (500000.0, 500000), 1: (1000000.0, 500000)]" in done.stdout, done.stdout + done.stderr


def test_working_folder_that_is_gone_is_told_once_a_run(kernel: Kernel, tmp_path: Path) -> None:
    assert kernel.run(
        f"import os\nos.mkdir({str(tmp_path / 'gone')!r})\nos.chdir({str(tmp_path / 'gone')!r})\nos.rmdir(os.getcwd())"
    ).ok
    for options in ("", "--start-method spawn "):
        result = kernel.run(f"%elastic_run -n 2 {options}__import__('os').getcwd()")
        assert (result.value, result.out) == (
            "[0: '/', 1: '/']",
            "note: the working directory is gone: ranks work in /\n",
        ), result.text
    result = kernel.run("%elastic_run -n 1 --log-dir logs 1")
    assert result.out == "UsageError: log_dir='logs': this folder is gone; give a whole path\n"


# ------------------------------------------------------------------------------------------------ settings of IPython


@pytest.mark.parametrize(
    ("mode", "line"),
    [
        ("Minimal", ""),
        ("Plain", "  Cell In[this], line 2\n"),
        ("Context", "----> 2 1 / 0\n"),
        ("Verbose", "----> 2 1 / 0\n"),
    ],
)
def test_every_exception_mode_shows_the_failure(kernel: Kernel, mode: str, line: str) -> None:
    assert kernel.run(f"%xmode {mode}\n%colors NoColor").ok
    result = kernel.run("%%elastic_run -n 1\n1 / 0")
    (number,) = [one["content"]["execution_count"] for one in result.messages if one["msg_type"] == "execute_input"]
    text = result.traceback.replace(f"In[{number}]", "In[this]")
    assert text.splitlines()[:2] == [
        "rank 0 of 1 failed (local_rank 0)",
        "  what    ZeroDivisionError: division by zero (Cell In[this], line 2)",
    ]
    assert line in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


def test_autocall_and_autoreload_and_star_imports_go_along(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "reloaded.py").write_text("def answer(): return 'first'\n")
    cells = ["%load_ext autoreload\n%autoreload 2", "%autocall 1", "from math import *\nfrom reloaded import answer"]
    for cell in cells:
        assert kernel.run(cell).ok, cell
    assert kernel.run("%%elastic_run -n 1\n(answer(), sin(0), pi > 3)").value == "[0: ('first', 0.0, True)]"
    (tmp_path / "reloaded.py").write_text("def answer(): return 'second, longer'\n")
    assert kernel.run("%%elastic_run -n 1\nanswer()").value == "[0: 'second, longer']"
    assert kernel.run("answer()").value == "'second, longer'"


def test_reload_and_unload_of_the_extension_in_mid_run(new_kernel: Callable[..., Kernel]) -> None:
    fresh = new_kernel()
    assert fresh.run("%load_ext ipyelastic\n%load_ext ipyelastic").ok
    mark = fresh.owner_mark()
    launched = "import ipyelastic, signal\nrun = ipyelastic.launch(signal.pause, nproc=2)"
    for leave in ("%reload_ext ipyelastic", "%unload_ext ipyelastic"):
        assert fresh.run(launched).ok
        wait_until(lambda: fresh.value("run.ranks[1].pid"), 20, "the ranks")
        ranks = set(fresh.value("[view.pid for view in run.ranks]"))
        result = fresh.run(leave)
        assert (result.ok, result.out) == (True, ""), result.text
        assert fresh.value("(type(run.exception(20)).__name__, run.status)") == ("RunStopped", "stopped")
        wait_until(lambda ranks=ranks: not ranks & set(marked_processes(mark)), 20, "the ranks gone")
    assert fresh.run("%elastic_run -n 1 1").out == "UsageError: Line magic function `%elastic_run` not found.\n"
    assert fresh.run("%load_ext ipyelastic").ok
    assert fresh.run("%elastic_run -n 2 rank").value == "[0: 0, 1: 1]"
