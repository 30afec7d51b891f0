"""A cell's body as something a rank can call: code, the notebook names it uses, and module semantics.

    notebook/cell.py builds it in the kernel  ->  payload/call  ->  [here] runs it in the rank's fresh `__main__`

Runs in: ranks (call), owner (made, never called).
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Mapping
from types import CodeType, MappingProxyType
from typing import Any

from ..terms import env
from .display import display, show_open_figures
from .measured import Measured, may_be_large

__all__ = ["CellBody", "RankShell"]


class CellBody:
    """The body of one `%%elastic_run` cell.

    Args:
        code: The statements, compiled with top-level `await` allowed; None: there are none before the last.
        last: The last statement as an expression whose value is the rank's value; None: it is no expression.
        captured: The notebook names the body uses, with their values of now.
        uses: `{name: "Cell In[3], line 2"}`, where each is used first.
        source_filenames: Files whose text must travel along for tracebacks.
        assigned: Names the body assigns; one that cannot be pickled need not travel.

    `may_stand_in`: a value that cannot be pickled is replaced by a placeholder rather than a failure.
    """

    may_stand_in = True

    def __init__(
        self,
        code: CodeType | None,
        last: CodeType | None,
        captured: dict[str, Any],
        uses: Mapping[str, str],
        source_filenames: tuple[str, ...] = (),
        assigned: frozenset[str] = frozenset(),
        name: str = "cell",
    ) -> None:
        self.code, self.last, self.captured = code, last, captured
        self.uses, self.source_filenames, self.assigned = dict(uses), source_filenames, assigned
        self.__name__ = name

    def __getstate__(self) -> dict[str, Any]:
        captured = {
            name: Measured(name, value, self.use_of(name)) if may_be_large(value) else value
            for name, value in self.captured.items()
        }
        return {**vars(self), "captured": captured}

    def use_of(self, name: str) -> str:
        """Where the body uses a captured name."""
        return self.uses.get(name, "")

    def __call__(self) -> Any:
        namespace = vars(sys.modules["__main__"])
        namespace.update(self.captured)
        namespace["rank"] = int(os.environ[env.RANK])
        namespace["local_rank"] = int(os.environ[env.LOCAL_RANK])
        namespace["world_size"] = int(os.environ[env.WORLD_SIZE])
        namespace.setdefault("display", display)
        namespace["get_ipython"] = RankShell
        self.captured = {}  # the namespace is now the only holder: `del big` in the body frees it
        is_async = [code.co_flags & inspect.CO_COROUTINE for code in (self.code, self.last) if code is not None]
        if any(is_async):
            import asyncio  # for bodies that await: a fork server is up 40 ms sooner without

            value = asyncio.run(self._run_async(namespace))
        else:
            if self.code is not None:
                exec(self.code, namespace)
            value = eval(self.last, namespace) if self.last is not None else None
        show_open_figures()
        return value

    async def _run_async(self, namespace: dict[str, Any]) -> Any:
        value = None
        for code in (self.code, self.last):
            if code is not None:
                value = eval(code, namespace)
                if code.co_flags & inspect.CO_COROUTINE:
                    value = await value
        return value if self.last is not None else None


class RankShell:
    """What `get_ipython()` gives inside a rank: enough for `!cmd` and `x = !cmd`; magics stay in the notebook."""

    config: Mapping[str, Any] = MappingProxyType({})
    """Empty: `"IPKernelApp" in get_ipython().config` is how programs ask whether there is a page to draw on."""

    def system(self, command: str) -> None:
        """Run a shell command, its output going where the rank's goes; the exit code is left in `_exit_code`."""
        sys.stdout.flush()
        done = subprocess.run(self._expanded(command), shell=True, executable=_shell(), check=False)
        vars(sys.modules["__main__"])["_exit_code"] = done.returncode

    def getoutput(self, command: str, split: bool = True) -> Any:
        """Run a shell command and return its output, as a list of lines (`split`) or as text."""
        done = subprocess.run(
            self._expanded(command), shell=True, executable=_shell(), check=False, text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        vars(sys.modules["__main__"])["_exit_code"] = done.returncode
        if not split:
            return done.stdout
        lines = done.stdout.splitlines()
        text = sys.modules.get("IPython.utils.text")
        return text.SList(lines) if text is not None else lines

    def _expanded(self, command: str) -> str:
        if "$" not in command and "{" not in command:
            return command
        from IPython.utils.text import DollarFormatter  # only for commands that name variables

        caller = sys._getframe(2)
        try:
            expanded: str = DollarFormatter().vformat(command, (), {**caller.f_globals, **caller.f_locals})
        except Exception:  # IPython's rule: what cannot be expanded is for the shell to judge
            return command
        return expanded

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"get_ipython().{name} is not there inside a rank: magics and IPython's own tools work in the notebook only"
        )


def _shell() -> str:
    return os.environ.get("SHELL") or "/bin/sh"
