"""A script as something a rank can call: what `python train.py` and `python -m pkg.train` do, in a warm process.

    engines/scripts.py finds it in the owner  ->  payload/call  ->  [here] makes it the rank's `__main__` and runs it

Runs in: ranks (call), owner (made, never called).
Other end: engines/scripts.py.
Source: Python's own rules for `sys.argv`, `sys.path[0]` and `__main__` ("Command line and environment", runpy).
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import sys
import threading
import time
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from ..terms import env
from .asking import in_a_script

__all__ = ["Script"]


class Script:
    """One script with its arguments; its value is None.

    Args:
        target: A path as the person wrote it, which becomes `sys.argv[0]`; or the name of a module.
        args: The rest of `sys.argv`.
        path: The absolute path of the file, folder or zip file; empty: `target` is a module's name.

    A call raises what the script raises. `sys.exit()` and `sys.exit(0)` are a good end; with another number SystemExit
    passes on; with words, which go to stderr as in Python, it is an exception like any other, so that they are told.

    `is_exit_0_fine`: `os._exit(0)` is a good end as well.
    """

    is_exit_0_fine = True

    def __init__(self, target: str, args: tuple[str, ...] = (), path: str = "") -> None:
        self.target, self.args, self.path = target, args, path
        self.__name__ = (os.path.basename(target.rstrip("/")) or target) if path else target

    def __call__(self) -> None:
        in_a_script()
        main = ModuleType("__main__")
        vars(main).update(__builtins__=builtins, __file__=None, __cached__=None)
        sys.modules["__main__"] = main
        _distrust_new_sources()
        try:
            exec(self._prepare(main), vars(main))
        except SystemExit as error:
            _judge(error)
        _finish_threads()

    def _prepare(self, main: ModuleType) -> CodeType:
        """Set up `sys` and `__main__` as Python would, and return the code to run."""
        option = ["-m", self.target] if not self.path else [self.target]
        sys.orig_argv = [sys.executable, *option, *self.args]
        sys.argv = [self.target, *self.args]
        if not self.path:
            _set_first_folder(os.getcwd())
            spec, code = _find_module(self.target)
            sys.argv[0] = spec.origin or self.target
            _describe(main, spec)
            return code
        importer = None if os.path.isfile(self.path) and not _is_zip(self.path) else pkgutil.get_importer(self.path)
        if importer is not None:
            _set_first_folder(self.path)
            found = importer.find_spec("__main__")
            code = _code_of(found, "__main__")
            assert found is not None
            _describe(main, found)
            return code
        _set_first_folder(os.path.dirname(os.path.realpath(self.path)))
        vars(main).update(__file__=self.path, __loader__=SourceFileLoader("__main__", self.path))
        with io.open_code(self.path) as file:
            return compile(file.read(), self.path, "exec", dont_inherit=True)


def _is_zip(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _describe(main: ModuleType, spec: ModuleSpec) -> None:
    # multiprocessing's "spawn" reads `__spec__.name` to know what a child's `__main__` is.
    vars(main).update(
        __spec__=spec, __file__=spec.origin, __cached__=spec.cached, __loader__=spec.loader, __package__=spec.parent
    )


def _find_module(name: str) -> tuple[ModuleSpec, CodeType]:
    """The module that `-m name` runs: itself, or a package's `__main__`. Its parents are imported."""
    parent = name.rpartition(".")[0]
    if parent:
        __import__(parent)  # not importlib's: this one leaves no frames of the import system in a traceback
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None and not name.endswith(".__main__"):
        return _find_module(f"{name}.__main__")
    code = _code_of(spec, name)
    assert spec is not None
    return spec, code


def _code_of(spec: ModuleSpec | None, name: str) -> CodeType:
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    code: CodeType | None = getattr(spec.loader, "get_code", lambda name: None)(name)
    if code is None:
        raise ImportError(f"{name} has no code that could be run", name=name)
    return code


def _set_first_folder(folder: str) -> None:
    """What `sys.path` begins with: the script's folder instead of the notebook's, then PYTHONPATH as it is now."""
    rest = [entry for entry in sys.path if entry != ""]
    added = [os.path.abspath(entry) for entry in os.environ.get(env.PYTHONPATH, "").split(os.pathsep) if entry]
    sys.path[:] = [folder, *(entry for entry in added if entry not in rest), *rest]
    for name in _names_in(folder):
        _forget_preloaded(name, folder)


def _names_in(folder: str) -> set[str]:
    """Top-level modules and packages that a folder holds."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # a zip file, or gone
        return set()
    modules = {entry.name[:-3] for entry in entries if entry.name.endswith(".py")}
    return modules | {entry.name for entry in entries if os.path.exists(os.path.join(entry.path, "__init__.py"))}


def _forget_preloaded(name: str, folder: str) -> None:
    """A library that this process came with gives way to a module of the same name beside the script, as in Python."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None or name in sys.stdlib_module_names or name == __package__.partition(".")[0]:
        return
    if os.path.dirname(path) in (folder, os.path.join(folder, name)):
        return
    for loaded in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
        del sys.modules[loaded]


def _distrust_new_sources() -> None:
    """Have no bytecode kept of a file that was written in this very second.

    Python knows bytecode to be old by the source's second and size: a file written, run and written again within one
    second, as `%%writefile` cells and warm ranks do, would be run as it was before.
    """
    keep = SourceFileLoader.set_data

    def set_data(self: SourceFileLoader, path: str, data: Any, **options: Any) -> None:
        # PEP 552: 4 bytes magic, 4 bytes flags (0: by time), 4 bytes the source's time in seconds.
        is_by_time = not any(data[4:8])
        if not (is_by_time and int.from_bytes(data[8:12], "little") >= int(time.time()) - 1):
            keep(self, path, data, **options)

    SourceFileLoader.set_data = set_data  # type: ignore[method-assign]


def _judge(end: SystemExit) -> None:
    """Let a good end pass, and any other be told."""
    if end.code is None or (isinstance(end.code, int) and end.code == 0):
        return
    if isinstance(end.code, int):
        raise end
    print(end.code, file=sys.stderr)
    told = type("SystemExit", (Exception,), {"__module__": "builtins"})
    raise told(str(end.code)).with_traceback(end.__traceback__) from None


def _finish_threads() -> None:
    """Wait for what a script's end waits for: executors that close at the end, then threads that are no daemons.

    A rank gives them its grace only; the end of a script, as Python has it, is theirs.
    """
    for call in reversed(getattr(threading, "_threading_atexits", [])):
        call()
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join()
