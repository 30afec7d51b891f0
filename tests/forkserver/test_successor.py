"""A successor takes over: with a preload, another environment, an edited file. Live runs stay with their server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver import handle
from ipyelastic.forkserver.client import ForkServers, servers
from support.families import parent_pid, rank_number
from support.gates import Gate
from support.gone import thread_count
from support.kernels import Kernel
from support.left import is_running
from support.packages import attribute_of, loaded_modules, wait_and_say_parent
from support.waiting import wait_until

Package = Callable[[str, str], Path]


@pytest.fixture
def ours() -> ForkServers:
    """This process's fork servers."""
    return servers()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes a module in a folder on sys.path, standing for one in site-packages."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    return make


def _pid(ours: ForkServers, role: str) -> int:
    return next((int(row["pid"]) for row in ours.describe() if row["role"] == role), 0)


def _preload(ours: ForkServers) -> list[str]:
    return next((list(row["preload"]) for row in ours.describe() if row["role"] == "current"), [])


def _settled(ours: ForkServers) -> bool:
    return [row["role"] for row in ours.describe()] == ["current"]


@pytest.mark.slow
def test_a_preload_is_reported_and_ranks_have_it(ours: ForkServers) -> None:
    assert "numpy" not in launch(loaded_modules, nproc=1).result(20)[0]
    ours.start(["numpy"])
    assert [(row["role"], row["preload"], row["runs"]) for row in ours.describe()] == [
        ("current", [], 0),
        ("warming", ["numpy"], 0),
    ]
    wait_until(lambda: _preload(ours) == ["numpy"], 60, "numpy to be warm")
    assert "numpy" in launch(loaded_modules, nproc=1).result(20)[0]
    wait_until(lambda: _settled(ours), what="the bare server to leave")
    assert thread_count(_pid(ours, "current")) == 1


@pytest.mark.slow
def test_a_live_run_is_left_alone_and_its_server_leaves_with_its_last_rank(ours: ForkServers, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate") as gate:
        run = launch(wait_and_say_parent, args=(gate.path,), nproc=2)
        wait_until(lambda: run.ranks[1].pid, what="its ranks")
        former, pids = _pid(ours, "current"), [view.pid for view in run.ranks]
        ours.start(["numpy"])
        wait_until(lambda: _preload(ours) == ["numpy"], 60, "numpy to be warm")
        assert _pid(ours, "leaving") == former
        assert set(launch(parent_pid, nproc=2).result(20)) == {_pid(ours, "current")}
        assert not run.done()
        assert is_running(former)
        assert [view.pid for view in run.ranks] == pids
        gate.open()
        assert run.result(20) == [former, former]
        wait_until(lambda: not is_running(former), what="the former server to leave with its last rank")
    assert _settled(ours)


@pytest.mark.slow
def test_three_generations_of_servers_hold_a_run_each(ours: ForkServers, tmp_path: Path, monkeypatch: Any) -> None:
    with Gate(tmp_path / "gate") as gate:
        runs = []
        for threads in ("2", "3", "4"):
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
            runs.append(launch(wait_and_say_parent, args=(gate.path,), nproc=2))
            wait_until(lambda run=runs[-1]: run.ranks[1].pid, what="its ranks")
        assert [row["runs"] for row in ours.describe()] == [1, 1, 1]
        gate.open()
        assert len({run.result(20)[0] for run in runs}) == 3
    wait_until(lambda: _settled(ours), what="two servers to leave")


@pytest.mark.slow
def test_an_environment_that_is_read_at_import_gives_a_new_server(ours: ForkServers, monkeypatch: Any) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first = launch(parent_pid, nproc=1).result(20)
    assert launch(parent_pid, nproc=1).result(20) == first
    monkeypatch.setenv("SOME_NAME", "other")
    assert launch(parent_pid, nproc=1).result(20) == first, "a name that nobody reads at import"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    second = launch(parent_pid, nproc=1).result(20)
    assert second != first
    assert launch(parent_pid, nproc=1).result(20) == second
    assert launch(os.getenv, args=("OMP_NUM_THREADS",), nproc=1).result(20) == ["3"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert launch(parent_pid, nproc=1).result(20) not in (first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('no such library')", "ImportError: no such library"),
        ("import surely_not_there_", "ModuleNotFoundError: No module named 'surely_not_there_'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("import os; os._exit(3)", "exited with 3"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by signal 11"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
    ],
)
def test_a_preload_that_cannot_be_is_refused_and_reported(
    ours: ForkServers, package: Package, text: str, words: str
) -> None:
    package("bad_package", text)
    ours.start(["bad_package"])
    assert launch(rank_number, nproc=2).result(20) == [0, 1]
    wait_until(lambda: ours.describe() and "bad_package" in ours.refused, 20, "a refusal")
    assert words in ours.refused["bad_package"]
    former = _pid(ours, "current")
    ours.start(["bad_package"])
    assert launch(parent_pid, nproc=2).result(20) == [former, former], "it is not tried again"
    assert _pid(ours, "warming") == 0


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["a_bad", "z_bad"])
@pytest.mark.parametrize(
    "text",
    [
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import os; os._exit(3)",
    ],
    ids=["thread", "exit"],
)
def test_one_bad_preload_does_not_cost_the_good_ones(ours: ForkServers, package: Package, bad: str, text: str) -> None:
    package(bad, text)
    names = ["c_good", "d_good", bad]
    for name in names[:2]:
        package(name, "value = 1")

    for _ in range(5):
        ours.start(names)  # as the notebook does after a cell
        wait_until(lambda: _pid(ours, "warming") == 0, 20, "the warming to come to an end")
    assert list(ours.refused) == [bad]
    assert _preload(ours) == names[:2]
    former = _pid(ours, "current")
    ours.start(names)
    assert launch(parent_pid, nproc=2).result(20) == [former, former], "all is settled: no server is started any more"
    assert _pid(ours, "warming") == 0


@pytest.mark.slow
def test_a_bad_preload_beside_a_good_one_that_fails_politely(ours: ForkServers, package: Package) -> None:
    package("a_bad", "raise ImportError('no')")
    package("b_good", "value = 1")
    ours.start(["a_bad", "b_good"])
    wait_until(lambda: "b_good" in _preload(ours), 20, "the good one")
    assert ours.refused == {"a_bad": "ImportError: no"}


@pytest.mark.slow
def test_a_preloaded_file_that_changes_makes_a_successor(
    ours: ForkServers, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "_LOOK_AGAIN_S", 0.0)
    path = package("fake_package", "value = 'old'\n")
    assert __import__("fake_package").value == "old"
    ours.start(["fake_package"])
    wait_until(lambda: _preload(ours) == ["fake_package"], 20, "it to be warm")
    warm = _pid(ours, "current")
    assert launch(attribute_of, args=("fake_package", "value"), nproc=1).result(20) == ["old"]
    path.write_text("value = 'new and longer'\n")
    assert launch(attribute_of, args=("fake_package", "value"), nproc=1).result(20) == ["new and longer"]
    wait_until(lambda: _preload(ours) == ["fake_package"] and _pid(ours, "current") != warm, 20, "the warm successor")
    assert launch(attribute_of, args=("fake_package", "value"), nproc=1).result(20) == ["new and longer"]


@pytest.mark.slow
def test_touching_a_preloaded_file_is_enough(ours: ForkServers, package: Package, monkeypatch: Any) -> None:
    path = package("other_package", "value = 1\n")
    assert __import__("other_package").value == 1
    ours.start(["other_package"])
    wait_until(lambda: _preload(ours) == ["other_package"], 20, "it to be warm")
    current = ours._current
    assert current is not None
    monkeypatch.setattr(handle, "_LOOK_AGAIN_S", 0.0)
    assert not current.is_stale()
    os.utime(path, (1, 1))
    assert current.is_stale()


def test_a_file_is_not_looked_at_at_every_launch(ours: ForkServers, package: Package, monkeypatch: Any) -> None:
    path = package("third_package", "value = 1\n")
    assert __import__("third_package").value == 1
    ours.start(["third_package"])
    wait_until(lambda: _preload(ours) == ["third_package"], 20, "it to be warm")
    current = ours._current
    assert current is not None
    monkeypatch.setattr(handle, "_LOOK_AGAIN_S", 1e9)
    os.utime(path, (1, 1))
    assert not current.is_stale()


@pytest.mark.slow
def test_a_module_beside_the_notebook_is_seen_fresh_at_every_launch(kernel: Kernel, tmp_path: Path) -> None:
    beside = tmp_path / "beside.py"
    for text in ("1", "22", "333"):
        beside.write_text(f"VALUE = {text}\ndef value():\n    return VALUE\n")
        result = kernel.run("%%elastic_run -n 2\nimport beside\nbeside.value()")
        assert result.value == f"[0: {text}, 1: {text}]", result.text


@pytest.mark.slow
def test_a_module_the_notebook_has_imported_is_not_preloaded_from_the_working_directory(
    kernel: Kernel, tmp_path: Path
) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 1\ndef value():\n    return VALUE\n")
    assert kernel.run("import beside\nfrom beside import value").ok
    assert kernel.run("%elastic_run -n 2 value()").value == "[0: 1, 1: 1]"
    (tmp_path / "beside.py").write_text("VALUE = 1000\ndef value():\n    return VALUE\n")
    assert kernel.run("%elastic_run -n 2 value()").value == "[0: 1000, 1: 1000]"
    assert "beside" not in kernel.run("%elastic_status").out
