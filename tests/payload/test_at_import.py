"""A call right after a module's import, in a Python of its own: once, in order, with nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_HEAD = (
    "import sys\nfrom ipyelastic.payload.at_import import when_imported\nbefore = list(sys.meta_path)\ncalled = []\n"
)


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", _HEAD + code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "first.py").write_text("value = 1")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("import first\nvalue = first.value")
    return tmp_path


def test_call_comes_after_the_modules_own_code_and_once(folder: Path) -> None:
    code = "when_imported({'first': lambda module: called.append(module.value)})\nimport first\nimport first\n"
    assert run(code + "print(called, sys.meta_path == before)", folder) == "[1] True"


def test_module_that_is_there_is_called_for_at_once(folder: Path) -> None:
    code = "import first\nwhen_imported({'first': lambda module: called.append(module is first)})\n"
    assert run(code + "print(called, sys.meta_path == before)", folder) == "[True] True"


def test_modules_of_packages_and_several_waiters_are_served(folder: Path) -> None:
    code = "def note(module): called.append(module.__name__)\nwhen_imported({'first': note, 'package.inner': note})\n"
    code += "when_imported({'first': note})\nfrom package.inner import value\n"
    assert run(code + "print(called, value, sys.meta_path == before)", folder) == (
        "['first', 'first', 'package.inner'] 1 True"
    )


def test_module_that_does_not_exist_is_missed_as_ever(folder: Path) -> None:
    code = "when_imported({'nowhere': called.append})\ntry: import nowhere\n"
    code += "except ModuleNotFoundError as error: print(error, called)"
    assert run(code, folder) == "No module named 'nowhere' []"


def test_builtin_modules_are_left_alone(folder: Path) -> None:
    code = "when_imported({'_lsprof': called.append})\nimport importlib.machinery as machinery\n"
    code += "print('exec_module' in vars(machinery.BuiltinImporter), called)"
    assert run(code, folder) == "True []"


def test_what_the_call_raises_the_import_raises(folder: Path) -> None:
    code = "def bad(module): raise ValueError('no')\nwhen_imported({'first': bad})\n"
    code += "try: import first\nexcept ValueError as error: print(error, 'first' in sys.modules)"
    assert run(code, folder) == "no False"


def test_looking_for_a_module_is_not_importing_it(folder: Path) -> None:
    code = "import importlib.util\nwhen_imported({'first': lambda module: called.append(module.value)})\n"
    code += "importlib.util.find_spec('first')\nimport first\nimportlib.reload(first)\n"
    assert run(code + "print(called, sys.meta_path == before)", folder) == "[1] True"
