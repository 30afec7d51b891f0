"""Answer our widgets while a cell blocks the kernel: the one file that touches what ipykernel keeps to itself.

    page > shell socket > [Pump.turn, in the cell's wait loop] > a comm of ours: its callback, at once
                                                               > what the kernel and its comms are: the reply, at once
                                                               > all else: where the kernel would have put it

Runs in: owner (kernel), main thread; the `early` of `keep_on_subshell`: ipykernel's shell channel thread.

Nothing read ahead is kept here. The pump stands before the callback of the kernel's own stream and has that stream read
on; what is not ours goes to that callback in the same instant, so it waits in the kernel's own queue in its own order.

What is used, seen with tests/bench/kernel_versions.py (`click`: from the page's message to our callback in a cell that
turns the pump each 20 ms; median, most of 40):

| ipykernel    | stream of the main shell | where it puts a message  | our messages come to           | click, ms  |
|--------------|--------------------------|--------------------------|--------------------------------|------------|
| 6.29.5       | `shell_stream`           | `msg_queue`, where ours  | main                           | 19.8, 22   |
| 6.31.0       |                          | are looked for once      |                                | 19.8, 23   |
| 7.0.1        | `shell_channel_thread`'s | a task, waiting for      | the subshell the page asks for | 19.9, 26   |
| 7.1.0        | `manager.                | `_main_asyncio_lock`;    | or main                        | 19.8, 23   |
| 7.3.0        | _shell_channel_to_main.  | what came before the     |                                | 19.8, 21   |
| 7.4.0        | to_stream`               | cell stays there         | what sent last on that comm;   | 19.8, 34   |
|              |                          |                          | see `keep_on_subshell`         |            |

(7.4.0 is the newest there is.) tests/notebook/test_kernel.py passes on each, but for the one or two that skip: no
subshells on 6; on 7, messages from before the cell; on 7.0-7.3, requests sent around a cell's end, because:
7.0-7.3, without us too, may never read a request that comes in just while a reply is sent; 7.4 has mended it.
`comm._msg_callback` is called rather than `comm.handle_msg`, whose `post_execute` event closes the cell's open figures.
The comm's message is the parent meanwhile: a page takes a widget's echo for its own by that.
A page that is reloaded asks what kernel this is, and draws no widget before it knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .held_interrupts import HeldInterrupts

__all__ = ["Pump", "can_pump", "is_kernel", "keep_on_subshell", "kernel_version", "obstacle", "ours"]

_log = logging.getLogger("ipyelastic")

_CONTROL_TARGET = "jupyter.widget.control"  # a reloaded page asks for all widgets' states there
_COMM_MESSAGES = frozenset({"comm_open", "comm_msg", "comm_close"})
_QUESTIONS = frozenset({"kernel_info_request", "comm_info_request"})  # the kernel's answers change nothing
_MOST_PER_TURN = 500  # messages read in one turn, so that the wait loop gets to see that its run has ended
_POLLIN, _POLLOUT = 1, 2  # zmq's; a terminal IPython need not load zmq for them

_Frames = list[Any]  # one message as zmq frames: identities, delimiter, signature, header, parent, metadata, content

_our_comms: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_broken = ""  # why no pump of this process works any more; said once


def is_kernel(shell: Any) -> bool:
    """Whether this shell is a Jupyter kernel's, rather than a terminal IPython's."""
    return getattr(shell, "kernel", None) is not None


def kernel_version() -> str | None:
    """ipykernel's version where this process has loaded it."""
    version = getattr(sys.modules.get("ipykernel"), "__version__", None)
    return None if version is None else str(version)


def obstacle(shell: Any) -> str | None:
    """Why a `Pump` made here and now would do nothing; None: it would work."""
    if not is_kernel(shell):
        return "there is no kernel"
    try:
        stream = _main_stream(shell.kernel)
        _require(shell.kernel, stream)
    except Exception as error:
        _give_up(f"ipykernel {kernel_version()} is made differently: {error}")
    if _broken:
        return _broken
    try:
        is_in_its_loop = asyncio.get_running_loop() is stream.io_loop.asyncio_loop
    except RuntimeError:
        is_in_its_loop = False
    return None if is_in_its_loop else "this is not the kernel's main thread and event loop"


def can_pump(shell: Any) -> bool:
    """Whether buttons work while a cell of this shell blocks."""
    return obstacle(shell) is None


def ours(comm: Any) -> None:
    """Have messages of this comm handled while a cell blocks, until the comm is gone.

    Its callback runs in the middle of a cell, on the main thread: it may set flags, and must neither print nor wait.
    """
    _our_comms[comm.comm_id] = comm


def keep_on_subshell(comm: Any, early: Callable[[Any], object] | None = None) -> bool:
    """Let the page choose where this comm's messages are handled, as before ipykernel 7.4.

    7.4 sends them to the shell that last sent on the comm: for a panel made by a cell, the shell that cell blocks.

    Args:
        comm: A comm, open.
        early: Called with each message's data as it comes in, whatever cell is running, in ipykernel's own thread:
            it may only set flags. The comm's callback gets the same message later; tell by an id of yours.

    Returns:
        Whether `early` will be called: False before 7.4.
    """
    if not hasattr(comm, "_reply_subshell_for"):
        return False

    def route(data: Any, asked_for: str | None) -> str | None:
        if early is not None:
            try:
                early(data)
            except Exception:  # raised further, ipykernel would drop the message
                _log.exception("the early look at a message of comm %s raised", comm.comm_id)
        return asked_for

    comm._reply_subshell_for = route
    return True


class Pump:
    """Used by a cell that waits: `with Pump(shell) as pump: while not done.wait(0.02): pump.turn()`.

    Where there is nothing to pump (`obstacle` says why) it does nothing. When it fails, it hands on what it has, warns
    once in the log, and this process pumps no more: then messages wait for the cell's end, as without us.
    """

    def __init__(self, shell: Any) -> None:
        self.obstacle: str | None = obstacle(shell)
        self._kernel: Any = getattr(shell, "kernel", None)
        self._stream: Any = None
        self._former: Any = None
        self._mine: deque[_Frames] = deque()  # empty but during a turn
        self._is_turning = False
        self._is_first = True
        self._interrupts = HeldInterrupts()
        self._trouble: Exception | None = None

    def __enter__(self) -> Pump:
        if self.obstacle is None:
            try:
                with self._interrupts:
                    stream = _main_stream(self._kernel)
                    self._former = stream._recv_callback
                    self._stream = stream
                    stream.on_recv(self._receive, copy=False)
            except BaseException:  # an interrupt: `with` will not close what was never entered
                self.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read ahead no more. Idempotent. Should it never be called: what stays behind only passes messages on."""
        with self._interrupts:
            stream, self._stream = self._stream, None
            if stream is None:
                return
            self._hand_on()
            try:
                if stream._recv_callback == self._receive:  # else somebody put himself before us, and still calls us
                    stream.on_recv(self._former, copy=False)
            except Exception as error:  # the stream is closed: the kernel is ending
                self._fail(error)

    def turn(self) -> int:
        """Read what has come in, handle what is ours, and return how many messages that was.

        Raises no Exception. A KeyboardInterrupt comes before or after, unless a callback takes over a second.
        """
        if self._stream is None or self._is_turning:
            return 0
        handled = 0
        with self._interrupts:
            self._is_turning = True
            try:
                if self._is_first:
                    self._is_first = False
                    self._search_queue()
                # In a context of its own: 7.0 would run the queued cells in a copy of this cell's.
                contextvars.Context().run(self._stream.flush, _POLLIN, _MOST_PER_TURN)
                while self._mine:
                    handled += self._handle(self._mine.popleft())
                if handled:
                    # Pages show the last status they got, and ours was "idle".
                    self._publish("busy", self._kernel.get_parent("shell"))
            except Exception as error:
                self._trouble = error
            finally:
                self._is_turning = False
                self._hand_on()
                trouble, self._trouble = self._trouble, None
                if trouble is not None:
                    self._fail(trouble)
        return handled

    def _receive(self, frames: _Frames) -> Any:
        """The stream's callback: ours to ourselves, all else to the kernel's."""
        if self._is_turning and _is_ours(self._kernel, frames):
            self._mine.append(frames)
            return None
        return self._former(frames)  # 7.x: an awaitable, of which the stream makes a task

    def _search_queue(self) -> None:
        """6.x: take what is ours and came in before this cell, out of the kernel's queue."""
        waiting = getattr(getattr(self._kernel, "msg_queue", None), "_queue", None)
        if not isinstance(waiting, deque):
            return
        is_mine = [
            len(item) == 3 and len(item[2]) == 1 and isinstance(item[2][0], list) and _is_ours(self._kernel, item[2][0])
            for item in waiting
        ]
        kept = [item for item, mine in zip(waiting, is_mine, strict=True) if not mine]
        self._mine.extend(item[2][0] for item, mine in zip(waiting, is_mine, strict=True) if mine)
        if len(kept) < len(waiting):
            waiting.clear()
            waiting.extend(kept)

    def _handle(self, frames: _Frames) -> int:
        """One message of ours, as the kernel would: busy, its callback, idle."""
        session = self._kernel.session
        try:
            identities, rest = session.feed_identities(frames, copy=False)
            message = session.deserialize(rest, content=True, copy=False)
        except Exception:  # a wrong signature, say: the kernel's own reading says so in its log
            self._pass_on(frames)
            return 0
        self._publish("busy", message)
        is_handled = True
        try:
            if message["msg_type"] in _QUESTIONS:
                is_handled = self._reply(identities, message)
            else:
                self._call(identities, message)
        finally:
            self._publish("idle", message)
        if not is_handled:
            session.digest_history.discard(_bytes(rest[0]))  # it has read this signature, and would not twice
            self._pass_on(frames)
        return int(is_handled)

    def _reply(self, identities: Any, message: dict[str, Any]) -> bool:
        """Have the kernel answer; False: its handler would wait for something, which it cannot in mid-cell."""
        kernel, kind = self._kernel, message["msg_type"]
        socket = _reply_socket(kernel)
        try:
            answering = kernel.shell_handlers[kind](socket, identities, message)
            if asyncio.iscoroutine(answering):
                try:
                    answering.send(None)
                except StopIteration:
                    pass
                else:
                    answering.close()
                    return False
            if hasattr(socket, "flush"):  # a stream, which else would send in the event loop, after the cell
                contextvars.Context().run(socket.flush, _POLLOUT)
        except Exception:
            kernel.log.error("Exception in the answer to a %s", kind, exc_info=True)
        return True

    def _call(self, identities: Any, message: dict[str, Any]) -> None:
        kernel, kind = self._kernel, message["msg_type"]
        cell = kernel._parent_ident["shell"], kernel.get_parent("shell")
        try:
            contextvars.copy_context().run(self._call_as_parent, kind, identities, message)
        except Exception:
            kernel.log.error("Exception in the callback of a %s", kind, exc_info=True)
        finally:
            _set_parent(kernel, *cell)

    def _call_as_parent(self, kind: str, identities: Any, message: dict[str, Any]) -> None:
        kernel = self._kernel
        try:
            _set_parent(kernel, identities, message)
        except Exception as error:  # the message in hand goes its way; then the turn says so
            self._trouble = error
        comm = kernel.comm_manager.comms.get(message["content"]["comm_id"])
        if kind == "comm_msg" and hasattr(comm, "_msg_callback"):
            if comm._msg_callback is not None:
                comm._msg_callback(message)
        else:
            kernel.shell_handlers[kind](None, identities, message)

    def _publish(self, status: str, parent: dict[str, Any]) -> None:
        try:
            self._kernel._publish_status(status, "shell", parent=parent)
        except Exception as error:
            self._trouble = error

    def _hand_on(self) -> None:
        while self._mine:
            self._pass_on(self._mine.popleft())

    def _pass_on(self, frames: _Frames) -> None:
        """Give the kernel a message, as its stream does."""
        result = contextvars.Context().run(self._former, frames)
        if asyncio.iscoroutine(result):
            contextvars.Context().run(asyncio.ensure_future, result)

    def _fail(self, error: Exception) -> None:
        self.obstacle = f"reading ahead in ipykernel {kernel_version()} failed: {error!r}"
        _give_up(self.obstacle)
        self.close()


def _main_stream(kernel: Any) -> Any:
    """The stream the main shell's messages come by."""
    channel = kernel.shell_channel_thread if hasattr(kernel, "shell_channel_thread") else None
    return kernel.shell_stream if channel is None else channel.manager._shell_channel_to_main.to_stream


def _reply_socket(kernel: Any) -> Any:
    """What the main shell's replies go by: 6 a stream, 7 a plain socket to the shell channel's thread."""
    channel = kernel.shell_channel_thread if hasattr(kernel, "shell_channel_thread") else None
    return kernel.shell_stream if channel is None else channel.manager.get_subshell_to_shell_channel_socket(None)


def _require(kernel: Any, stream: Any) -> None:
    """Raise AttributeError for the first thing a pump needs and this kernel does not have."""
    for thing, names in (
        (stream, ("_recv_callback", "on_recv", "flush", "io_loop")),
        (
            kernel,
            ("session", "comm_manager", "shell_handlers", "get_parent", "log", "_parent_ident", "_publish_status"),
        ),
        (kernel.session, ("feed_identities", "unpack", "deserialize")),
        (kernel.comm_manager, ("comms",)),
    ):
        for name in names:
            getattr(thing, name)
    _reply_socket(kernel)
    if not callable(stream._recv_callback):
        raise AttributeError("its stream has no callback")


def _set_parent(kernel: Any, identities: Any, parent: dict[str, Any]) -> None:
    """What comms send from now on is sent because of `parent`; prints and displays stay the cell's."""
    from ipykernel.kernelbase import Kernel  # IPythonKernel's own would move stdout and the display hooks as well

    Kernel.set_parent(kernel, identities, parent, channel="shell")


def _is_ours(kernel: Any, frames: _Frames) -> bool:
    """Whether a message, its signature not yet looked at, is of a comm of ours or asks what there is."""
    try:
        session = kernel.session
        _, (_, header, _, _, content, *_) = session.feed_identities(frames, copy=False)
        kind = session.unpack(_bytes(header))["msg_type"]
        if kind in _QUESTIONS:
            return kind in kernel.shell_handlers
        if kind not in _COMM_MESSAGES:
            return False
        told = session.unpack(_bytes(content))
        if kind == "comm_open":
            return bool(told["target_name"] == _CONTROL_TARGET)
        comm = kernel.comm_manager.comms.get(told["comm_id"])
        return told["comm_id"] in _our_comms or getattr(comm, "target_name", None) == _CONTROL_TARGET
    except Exception:  # no message we understand: the kernel's own reading says what is wrong with it
        return False


def _bytes(frame: Any) -> bytes:
    return bytes(getattr(frame, "bytes", frame))


def _give_up(why: str) -> None:
    """Pump no more in this process, and say so, once."""
    global _broken
    if not _broken:
        _broken = why
        _log.warning("buttons wait until the cell ends, interrupt the kernel instead: %s", why)
