"""What a fork server should have imported before it forks: the libraries the owner's own code uses.

    owner's `__main__` -> wanted_modules -----------.
    what imports cost ranks -> worth_preloading -----+-> ForkServers.start(preload)

Runs in: owner. Installed distributions only: a module beside the notebook, or of an editable install, may change.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Mapping

from ..payload.pickling import is_installed

__all__ = ["wanted_modules", "worth_preloading", "is_fit", "file_state", "file_states", "module_files"]

# The notebook's own machinery is in every kernel and in no rank; some of it starts threads.
_NEVER = frozenset(
    ["IPython", "ipykernel", "ipywidgets", "traitlets", "zmq", "tornado", "jupyter_client", "jupyter_core", "comm"]
    + ["matplotlib_inline", "debugpy", "ipyelastic", "pytest", "_pytest", "nbclient", "prompt_toolkit"]
)


_WORTH_MS = 20.0
_PART_MS = 1.0  # a module of such a distribution that took less comes when it is asked for


def wanted_modules(namespace: Mapping[str, object]) -> list[str]:
    """Installed modules that a namespace names: `np` -> numpy, a class of `torch.nn` -> torch.nn."""
    names = set()
    for value in list(namespace.values()):
        if isinstance(value, types.ModuleType):
            names.add(value.__name__)
        elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            module = getattr(value, "__module__", None)
            if isinstance(module, str):
                names.add(module)
    return sorted(name for name in names if is_fit(name) and _is_installed_here(name))


def worth_preloading(costs_ms: Mapping[str, float]) -> frozenset[str]:
    """Of modules and what their imports took in a rank, those of distributions that took more than 20 ms in all.

    A server's memory and its start grow with each; an import of less is not felt.
    """
    totals: dict[str, float] = {}
    for name, ms in costs_ms.items():
        top = name.partition(".")[0]
        totals[top] = totals.get(top, 0.0) + ms
    return frozenset(
        name
        for name, ms in costs_ms.items()
        if totals[name.partition(".")[0]] > _WORTH_MS and (ms >= _PART_MS or ms == totals[name.partition(".")[0]])
    )


def is_fit(name: str) -> bool:
    """Whether a module's name is one to preload at all: not Python's own, not the notebook's machinery."""
    top = name.partition(".")[0]
    return not (
        top in _NEVER or top.startswith("_sysconfigdata") or top in sys.stdlib_module_names or top == "__main__"
    )


def _is_installed_here(name: str) -> bool:
    path = getattr(sys.modules.get(name), "__file__", None)
    return path is not None and is_installed(path)


def file_states(preload: Iterable[str]) -> dict[str, tuple[int, int]]:
    """`{path: (modification time in ns, size in bytes)}` of `module_files`."""
    found = ((path, file_state(path)) for path in module_files(preload))
    return {path: state for path, state in found if state is not None}


def module_files(preload: Iterable[str]) -> list[str]:
    """The files that preloading these packages reads.

    Taken from this process's own modules: it has imported the same packages, or is about to.
    """
    tops = {name.partition(".")[0] for name in preload}
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops]
    paths = (getattr(module, "__file__", None) for module in modules)
    return [path for path in paths if isinstance(path, str) and os.path.isabs(path)]  # torch has a few of no file


def file_state(path: str) -> tuple[int, int] | None:
    """One file's modification time and size, None when it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
