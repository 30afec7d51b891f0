"""Run a function or a notebook cell on every local GPU or CPU: values by rank, live output, readable failures.

    %load_ext ipyelastic                   in a notebook; then `%%elastic_run --nproc 2` is a cell's first line
    ipyelastic.launch(train, nproc=2)      anywhere: a Run, whose `result()` is a list by rank
    ipyelastic run -n 2 train.py           in a shell
    ipyelastic.compat                      torch.distributed.elastic's names, without torch

Every name is loaded at its first use: importing this package starts nothing and costs a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engines.launch import launch
    from .engines.results import Results
    from .engines.run import Run, last_run
    from .notebook.magic import unload_ipython_extension
    from .notebook.training import notebook_launcher
    from .terms.errors import (
        ChildFailedError,
        IpyelasticError,
        OptionError,
        RunCancelled,
        RunStopped,
        RunTimedOut,
        ServerError,
        UnpicklableError,
    )
    from .terms.failure import ProcessFailure

__all__ = [
    "launch",
    "last_run",
    "notebook_launcher",
    "Run",
    "Results",
    "ChildFailedError",
    "IpyelasticError",
    "OptionError",
    "ProcessFailure",
    "RunCancelled",
    "RunStopped",
    "RunTimedOut",
    "ServerError",
    "UnpicklableError",
    "load_ipython_extension",
    "unload_ipython_extension",
]

__version__ = "0.1.0"

_HOMES = {
    "launch": "engines.launch",
    "last_run": "engines.run",
    "Run": "engines.run",
    "Results": "engines.results",
    "notebook_launcher": "notebook.training",
    "unload_ipython_extension": "notebook.magic",
    "ProcessFailure": "terms.failure",
    **dict.fromkeys(
        [
            "ChildFailedError",
            "IpyelasticError",
            "OptionError",
            "RunCancelled",
            "RunStopped",
            "RunTimedOut",
            "ServerError",
            "UnpicklableError",
        ],
        "terms.errors",
    ),
}


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext ipyelastic` calls: the notebook has the magics, a server waits. Twice is once.

        %load_ext ipyelastic
        %%elastic_run --nproc 2             run the cell in two processes; %%elastic_run? tells everything
        %elastic_run -n 2 train(cfg)        one line, or a script: %elastic_run -n 2 train.py --lr 1e-3
        %elastic_config nproc=2             save options for all runs of this notebook
        %elastic_status, %elastic_stop, %elastic_logs 1, %elastic_panel

    Args:
        shell: IPython's shell, in a kernel or a terminal.
    """
    import contextlib

    from .forkserver.client import servers
    from .terms.errors import ServerError

    with contextlib.suppress(ServerError):  # whatever comes next says it
        servers().start()  # comes up while we import the rest
    from .notebook.magic import load

    load(shell)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in ("launch", "Run", "notebook_launcher"):
        _settle_in_notebook()
    globals()[name] = value
    return value


def _settle_in_notebook() -> None:
    """In a notebook `launch()` shows its output there, whether the extension is loaded or not.

    Here, because the engines do not know the notebook: rooms import downwards only.
    """
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is not None:
        from .notebook.background import settle_in

        settle_in(shell)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
