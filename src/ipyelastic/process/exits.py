"""How a rank ends: what its parent wanted done at *its* exit is dropped, what an orderly exit owes is done.

    fork -> drop_inherited_exits ... the value is out -> leave: threads within the grace, exit handlers, buffers

Runs in: ranks; drop_inherited_exits in every process of ours that is forked and lives on.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import weakref
from typing import Any

from .orphans import libc

__all__ = ["drop_inherited_exits", "hurry_when_asked", "flush_streams", "leave"]

_TRACKER_S = 2.0  # what the resource tracker gets to remove shared memory that was left; it needs milliseconds


def drop_inherited_exits() -> None:
    """Forget what the parent wanted done at *its* exit: a finalizer run here would delete the parent's files."""
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # no public way
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # so that new ones register again
    multiprocessing_util = sys.modules.get("multiprocessing.util")
    if multiprocessing_util is not None:
        multiprocessing_util._finalizer_registry.clear()
        # The parent's children are not ours: `_exit_function` would send its DataLoader workers a SIGTERM.
        sys.modules["multiprocessing.process"]._children.clear()
        atexit.register(multiprocessing_util._exit_function)
    atexit.register(logging.shutdown)
    _drop_servers()
    # The parent's executors: at the exit of this process they would be woken through descriptors that are closed
    # here, or are other files by now.
    for module, register in (
        ("concurrent.futures.thread", "_threads_queues"),
        ("concurrent.futures.process", "_threads_wakeups"),
        ("joblib.externals.loky.process_executor", "_threads_wakeups"),
    ):
        entries = getattr(sys.modules.get(module), register, None)
        if entries is not None:
            entries.clear()


def _drop_servers() -> None:
    """multiprocessing's own servers of the parent: their descriptors are closed here, their numbers soon others'."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if tracker is not None:
        tracker._fd = tracker._pid = None
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if server is not None:
        server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
        server._inherited_fds = None


# ------------------------------------------------------------------------------------------------------------ leaving

# A lock and no Event: a signal that meets the main thread inside Event.wait() would wait for a lock it holds itself.
_waits_for_threads = threading.Lock()
_waits_for_threads.acquire()
_is_hurrying = False


def _wait_no_longer() -> None:
    with contextlib.suppress(RuntimeError):  # twice is once
        _waits_for_threads.release()


def _note_hurry(signum: int, frame: object) -> None:
    _wait_no_longer()


def hurry_when_asked() -> None:
    """From here on this process is ending anyway: SIGTERM only spares it the wait for its threads."""
    global _is_hurrying
    if not _is_hurrying:
        _is_hurrying = True
        # Exit handlers, and a pool's thread, may fork even now: a child that is deaf to SIGTERM, or loses one between
        # fork and its own handlers (Python drops signals that come then), would be waited for without end.
        os.register_at_fork(before=_hold_sigterm, after_in_parent=_let_sigterm, after_in_child=_take_sigterm_again)
    signal.signal(signal.SIGTERM, _note_hurry)


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _let_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _take_sigterm_again() -> None:
    if signal.getsignal(signal.SIGTERM) is _note_hurry:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_sigterm()


def flush_streams() -> None:
    """Python's buffers; a full disk, or streams that the user closed, are no matter."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def leave(grace_s: float) -> None:
    """Do what an orderly exit owes: non-daemon threads within the grace, exit handlers, C's and Python's buffers.

    Exit handlers have no limit (one may be sending the last of a training's log home); when they take longer than the
    grace, stderr says where they are.
    """
    hurry_when_asked()
    flush_streams()
    if threading.active_count() > 1:
        # What Python does at its end, without a time limit; in a thread it has ours.
        threading.Thread(target=_finish_threads, daemon=True).start()
        _waits_for_threads.acquire(timeout=grace_s)
    watch = _watch_handlers(grace_s)
    try:
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if watch is not None:
        watch.cancel()
    flush_streams()
    libc().fflush(None)
    _end_tracker()


def _finish_threads() -> None:
    """Let executors close (they register with threading), then wait for non-daemon threads."""
    for call in reversed(getattr(threading, "_threading_atexits", [])):
        try:
            call()
        except BaseException:
            sys.excepthook(*sys.exc_info())
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    _wait_no_longer()


def _watch_handlers(grace_s: float) -> threading.Timer | None:
    """A timer that tells where exit handlers are when the grace is over; None where there are none but Python's own."""
    if atexit._ncallbacks() <= 1 + ("multiprocessing.util" in sys.modules) and threading.active_count() == 1:
        return None
    main = threading.get_ident()

    def tell() -> None:
        frame: Any = sys._current_frames().get(main)
        where = "" if frame is None else f", in {frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
        print(f"ipyelastic: exit handlers are running for {grace_s:g} s now{where}", file=sys.stderr)

    watch = threading.Timer(grace_s, tell)
    watch.daemon = True
    watch.start()
    return watch


def _end_tracker() -> None:
    """Let multiprocessing's resource tracker remove shared memory that was left, before whatever is left is killed."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    if tracker is None or tracker._fd is None or tracker._pid is None:
        return
    with contextlib.suppress(OSError):
        os.close(tracker._fd)  # it ends when the last of its users has closed
        pidfd = os.pidfd_open(tracker._pid)
        select.select([pidfd], [], [], _TRACKER_S)
