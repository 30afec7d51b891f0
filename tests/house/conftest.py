"""What the house tests share: our source files, parsed, and a notebook executed in a process of its own."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LONGEST_S = 600  # 20 times what the slowest notebook takes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that executes a notebook may take that long."""
    for item in items:
        if "execute" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(_LONGEST_S))


@dataclass(frozen=True)
class Module:
    """One file of ours: its dotted name, its place and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Execution:
    """How `notebooks/execute.py` ended, what it printed, and the folder with what it left."""

    returncode: int
    text: str
    folder: Path


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    """Every module of ours by its dotted name."""
    found = {}
    source = ROOT / "src"
    for path in sorted((source / "ipyelastic").rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


@pytest.fixture(scope="session")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Execution]:
    """Execute a notebook as `make demo` does.

    In a process of its own: what nbclient, jupyter_client and zmq warn about is theirs and no failure of ours.
    """

    def run(notebook: Path) -> Execution:
        folder = tmp_path_factory.mktemp("executed")
        ended = subprocess.run(
            [sys.executable, str(ROOT / "notebooks" / "execute.py"), str(notebook), "--to", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_S - 60,
        )
        return Execution(ended.returncode, ended.stdout, folder)

    return run


@pytest.fixture(scope="session")
def execution(execute: Callable[[Path], Execution]) -> Callable[[str], Execution]:
    """Execute one of our notebooks, by its name: once for all tests."""
    return functools.cache(lambda name: execute(ROOT / "notebooks" / f"{name}.ipynb"))


@pytest.fixture(scope="session")
def quickstart(execution: Callable[[str], Execution]) -> Execution:
    """`make demo`."""
    return execution("quickstart")


@pytest.fixture(scope="session")
def printed() -> Callable[[dict], str]:
    """What a person reads under a cell, without colours."""

    def text_of(cell: dict) -> str:
        text = ""
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                text += output["text"]
            elif output["output_type"] == "error":
                text += "\n".join(output["traceback"]) + "\n"
            else:
                text += output["data"].get("text/plain", "") + "\n"
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    return text_of
