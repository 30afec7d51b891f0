"""Real kernels for tests: start one in a folder, run cells, read what a person would."""

from __future__ import annotations

import os
import re
import signal
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

__all__ = ["Kernel", "CellResult"]


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@dataclass
class CellResult:
    """What one cell showed. `out`: text of stdout and stderr; `value`: the Out[n] text; `error`: name and traceback."""

    out: str = ""
    value: str | None = None
    error_name: str | None = None
    error_value: str = ""
    traceback: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the cell ended without an error."""
        return self.error_name is None

    @property
    def text(self) -> str:
        """All of it, as a person reads it."""
        return "\n".join(part for part in (self.out, self.value or "", self.error_name or "", self.traceback) if part)


class Kernel:
    """A running kernel. `run` waits for a cell; `send` and `collect` do it in two steps."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self.manager, self.client = manager, client
        self._pending: dict[str, float] = {}

    @classmethod
    def start(cls, folder: Path, env: dict[str, str] | None = None) -> Kernel:
        """Start one whose working directory is `folder`."""
        environment = {**os.environ, **(env or {})}
        environment["IPYTHONDIR"] = str(folder / ".ipython")
        environment.pop("PYTEST_CURRENT_TEST", None)
        manager = KernelManager(kernel_name="python3")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jupyter_client's own, about transports
            with open(folder / "kernel.err", "ab") as errors:
                manager.start_kernel(cwd=str(folder), env=environment, stderr=errors)
            client = manager.client()
            client.start_channels()
            client.wait_for_ready(timeout=60)
        return cls(manager, client)

    @property
    def pid(self) -> int:
        """The kernel's process id."""
        provisioner = self.manager.provisioner
        assert provisioner is not None
        return int(provisioner.pid)  # type: ignore[attr-defined]

    def send(self, code: str) -> str:
        """Ask for a cell to be run; returns its id."""
        sent = str(self.client.execute(code))
        self._pending[sent] = time.monotonic()
        return sent

    def collect(self, sent: str, timeout_s: float = 60.0, until: str | None = None) -> CellResult:
        """Everything the cell shows until it ends (or until `until` has been printed)."""
        result, began = CellResult(), self._pending.get(sent, time.monotonic())
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            result.messages.append(message)
            if kind == "stream":
                result.out += content["text"]
            elif kind == "execute_result":
                result.value = content["data"]["text/plain"]
            elif kind == "error":
                result.error_name, result.error_value = content["ename"], content["evalue"]
                result.traceback = _plain("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                break
            if until is not None and until in result.out:
                break
        result.duration_s = time.monotonic() - began
        return result

    def run(self, code: str, timeout_s: float = 60.0) -> CellResult:
        """Run a cell to its end."""
        return self.collect(self.send(code), timeout_s)

    def value(self, expression: str) -> Any:
        """Evaluate an expression that has a literal as its value."""
        import ast

        result = self.run(expression)
        assert result.ok, result.text
        return None if result.value is None else ast.literal_eval(result.value)

    def owner_mark(self) -> str:
        """The mark all processes of this kernel's runs carry."""
        return str(self.value("__import__('ipyelastic.forkserver.client', fromlist=['x']).servers().mark"))

    def interrupt(self) -> None:
        """What the interrupt button does: SIGINT to the kernel's process group."""
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """kill -9, the kernel alone."""
        os.kill(self.pid, signal.SIGKILL)

    def shutdown(self) -> None:
        """End it, whatever state it is in."""
        self.client.stop_channels()
        if self.manager.has_kernel:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        context = getattr(self.client, "context", None)
        if context is not None:
            context.destroy(linger=0)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
