"""What ranks had to import, and what that cost, decides what the next server has imported already."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipyelastic import launch
from ipyelastic.forkserver.client import ForkServers, servers
from ipyelastic.forkserver.preload import worth_preloading
from ipyelastic.terms.errors import ChildFailedError
from support.kernels import Kernel
from support.waiting import wait_until

Package = Callable[..., None]

_SLOW = "import time\nend = time.perf_counter() + 0.05\nwhile time.perf_counter() < end: pass\n"
"""50 ms of work: more than is worth preloading by itself, on any machine."""


@pytest.fixture
def ours() -> ForkServers:
    """This process's fork servers."""
    return servers()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes modules in a folder that ranks take for one of installed distributions."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(**texts: str) -> None:
        for name, text in texts.items():
            path = site / (name.replace("_of_", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return make


def imported(*names: str) -> list[bool]:
    """Import them; whether each was there before."""
    were = [name in sys.modules for name in names]
    for name in names:
        importlib.import_module(name)
    return were


def looked_for(name: str) -> bool:
    """Whether a module is there to be imported, which is not done."""
    return importlib.util.find_spec(name) is not None


@pytest.mark.slow
def test_what_took_long_is_preloaded_next_time(ours: ForkServers, installed: Package) -> None:
    installed(costly_one=_SLOW)
    assert launch(imported, args=("costly_one",), nproc=2).result(20) == [[False], [False]]
    assert ours.learned == {"costly_one"}
    ours.start(ours.learned)
    wait_until(lambda: ours.describe()[0]["preload"] == ["costly_one"], 20, "the successor")
    assert launch(imported, args=("costly_one",), nproc=2).result(20) == [[True], [True]]
    assert ours.learned == {"costly_one"}


def test_what_an_import_imports_counts_for_it(ours: ForkServers, installed: Package) -> None:
    installed(outer_one="import inner_one", inner_one=_SLOW)
    launch(imported, args=("outer_one", "inner_one"), nproc=1).result(20)
    assert ours.learned == {"outer_one"}


def test_a_part_of_a_package_that_took_long_is_learnt_with_its_name(ours: ForkServers, installed: Package) -> None:
    installed(parts_of___init__="", parts_of_slow=_SLOW)
    launch(imported, args=("parts.slow",), nproc=1).result(20)
    assert "parts.slow" in ours.learned


def test_a_module_beside_the_notebook_is_never_learnt_but_what_it_imports_is(
    ours: ForkServers, installed: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(costly_two=_SLOW)
    (tmp_path / "mine.py").write_text("import costly_two\n" + _SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    launch(imported, args=("mine",), nproc=1).result(20)
    assert ours.learned == {"costly_two"}


def test_a_library_that_is_only_looked_for_is_not_learnt(ours: ForkServers, installed: Package) -> None:
    installed(costly_three=_SLOW)
    assert launch(looked_for, args=("costly_three",), nproc=1).result(20) == [True]
    assert ours.learned == frozenset()


def test_an_import_that_fails_shows_the_users_lines_only(ours: ForkServers, installed: Package) -> None:
    installed(broken_one="import missing_one")
    error = launch(imported, args=("broken_one",), nproc=1).exception(20)
    assert isinstance(error, ChildFailedError)
    record = error.failures[0].exception
    assert record is not None
    assert "No module named 'missing_one'" in record.text
    assert "import_costs" not in record.text


@pytest.mark.parametrize(
    ("costs_ms", "worth"),
    [
        ({}, []),
        ({"six": 3.0}, []),
        ({"numpy": 80.0, "six": 19.9}, ["numpy"]),
        ({"sklearn": 15.0, "sklearn.svm": 12.0}, ["sklearn", "sklearn.svm"]),
        ({"torch": 900.0, "torch.small": 0.4}, ["torch"]),
    ],
)
def test_what_is_worth_it(costs_ms: dict[str, float], worth: list[str]) -> None:
    assert sorted(worth_preloading(costs_ms)) == worth


@pytest.mark.slow
def test_a_notebook_whose_cells_import_in_the_ranks_learns_by_itself(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "costly_four.py").write_text(_SLOW)
    kernel.run(f"import sys; sys.path.insert(0, {str(tmp_path / 'site-packages')!r})")
    cell = "%%elastic_run -n 2\nimport sys\nwas = 'costly_four' in sys.modules\nimport costly_four\nwas"
    assert kernel.run(cell).value == "[0: False, 1: False]"

    def status() -> Any:
        return kernel.run("%elastic_status").out

    wait_until(lambda: "(current): costly_four" in status(), 30, "the successor")
    assert kernel.run(cell).value == "[0: True, 1: True]"
