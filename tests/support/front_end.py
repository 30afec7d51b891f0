"""A page's side of a kernel without a page: cells and comm messages by one connection, everything heard kept."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any

from jupyter_client.session import Session

from .kernels import Kernel

__all__ = ["FrontEnd"]

Message = dict[str, Any]


class FrontEnd:
    """One connection, as JupyterLab's is: what it sends on the shell channel arrives in its order.

    Args:
        kernel: The kernel of that page.
        is_ready: Whether to wait until the kernel has answered; False for a kernel that may be busy.
    """

    def __init__(self, kernel: Kernel, is_ready: bool = True) -> None:
        self.heard: list[Message] = []
        self._cells: set[str] = set()
        self._replies: dict[str, dict[str, Any]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jupyter_client's own, about transports
            # A session of its own is an identity of its own: of two connections with one, the kernel drops the older.
            session = kernel.manager.session
            own = Session(key=session.key, signature_scheme=session.signature_scheme)
            self._client = kernel.manager.client(session=own)
            self._client.start_channels()
            if is_ready:
                self._client.wait_for_ready(timeout=60)

    def run(self, code: str) -> str:
        """Ask for a cell to be run; its message's id."""
        sent = str(self._client.execute(code))
        self._cells.add(sent)
        return sent

    def send(
        self, kind: str, content: dict[str, Any], subshell: str | None = None, metadata: dict[str, Any] | None = None
    ) -> str:
        """Send a message of any kind on the shell channel; its id."""
        message = self._client.session.msg(kind, content, metadata=metadata)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def forge(self, comm: str, data: Any) -> None:
        """Send data on a comm, with a signature by somebody else's key."""
        session = self._client.session
        key, session.key = session.key, b"somebody else's"
        self.tell(comm, data)
        session.key = key

    def tell(self, comm: str, data: Any, subshell: str | None = None) -> str:
        """Send data on a comm."""
        return self.send("comm_msg", {"comm_id": comm, "data": data}, subshell)

    def open(self, target: str, **metadata: str) -> tuple[str, str]:
        """Open a comm; its id and the message's."""
        comm = uuid.uuid4().hex
        return comm, self.send("comm_open", {"comm_id": comm, "target_name": target, "data": {}}, metadata=metadata)

    def new_subshell(self, within_s: float = 20) -> str:
        """Have the kernel make a subshell, as JupyterLab does for a comm target; its id."""
        message = self._client.session.msg("create_subshell_request", {})
        self._client.control_channel.send(message)
        while True:
            reply = self._client.get_control_msg(timeout=within_s)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(reply["content"]["subshell_id"])

    def reply(self, sent: str, within_s: float = 20) -> dict[str, Any]:
        """The content of the reply to a shell message."""
        deadline = time.monotonic() + within_s
        while sent not in self._replies:
            reply = self._client.get_shell_msg(timeout=max(0.01, deadline - time.monotonic()))
            self._replies[reply["parent_header"].get("msg_id")] = dict(reply["content"])
        return self._replies[sent]

    def until(self, is_so: Callable[[], object], within_s: float = 20, what: str = "") -> None:
        """Listen until what was heard is enough."""
        deadline = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s:g} s: {what}; heard {[self.words(m) for m in self.heard]}")
            self.listen(0.02)

    def listen(self, for_s: float) -> None:
        """Hear one message, if one comes in this time."""
        if self._client.iopub_channel.socket.poll(for_s * 1e3):
            self.heard.append(self._client.get_iopub_msg(timeout=1))

    def until_idle(self, *sent: str, within_s: float = 20) -> None:
        """Listen until the kernel has done with these messages, and until cells have their replies.

        Without us too, ipykernel 7.0-7.3 never read a request that comes in just while a reply is sent (7.4 mended it).
        """
        self.until(lambda: all(self.states(each)[-1:] == ["idle"] for each in sent), within_s, f"idle for {sent}")
        for each in self._cells.intersection(sent):
            self.reply(each, within_s)

    def until_printed(self, text: str, within_s: float = 20) -> None:
        """Listen until some cell has printed this."""
        self.until(lambda: text in self.printed(), within_s, text)

    def of(self, sent: str) -> list[Message]:
        """What was heard because of a message."""
        return [message for message in self.heard if message["parent_header"].get("msg_id") == sent]

    def states(self, sent: str) -> list[str]:
        """busy and idle, as published for a message."""
        return [m["content"]["execution_state"] for m in self.of(sent) if m["msg_type"] == "status"]

    def printed(self, *sent: str) -> str:
        """What cells printed: these, or all."""
        return "".join(
            message["content"]["text"]
            for message in self.heard
            if message["msg_type"] == "stream" and (not sent or message["parent_header"].get("msg_id") in sent)
        )

    def error(self, sent: str) -> str | None:
        """The name of the error a cell ended with."""
        return next((m["content"]["ename"] for m in self.of(sent) if m["msg_type"] == "error"), None)

    @staticmethod
    def words(message: Message) -> str:
        """A message in one word or two."""
        return f"{message['msg_type']} {message['content'].get('execution_state', message['content'].get('text', ''))}"

    def close(self) -> None:
        """Give the connection back."""
        self._client.stop_channels()
        self._client.context.destroy(linger=0)
