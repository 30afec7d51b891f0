"""The panel of a run: buttons, and the view with a tab per rank.

    Run -> PanelSink, Run.board -> [here] -> Writer's thread -> ipywidgets buttons, RunView -> page
    page -> comm -> kernel (subshell or pump) -> [here]: flags, Run.stop -> Writer's thread

Runs in: owner. Made and displayed on the main thread; afterwards only the writing thread touches widgets.
Other end: src/frontend draws it; notebook/session.py makes it, waits for its run and puts the static page in its place.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ipywidgets

from ..engines.run import Run
from ..engines.static_forms import static_forms
from ..terms.errors import ChildFailedError, IpyelasticError, RunStopped
from ..terms.events import Sink
from .panel_box import Box, idle_button, widgets_below
from .panel_messages import RunState
from .panel_pictures import PictureFeed
from .panel_state import RunFacts, first_failure, run_state
from .panel_stream import PanelSink, Window
from .panel_view import RunView, front_end
from .panel_writer import Writer

__all__ = ["Panel"]

_NOT_LIVE = (
    "This is the run at its start. The live panel needs ipywidgets and anywidget where Jupyter itself runs"
    " (pip install ipywidgets anywidget there, then reload the page); what ranks write is shown at the end."
)

Launch = Callable[[Callable[[int], Sink]], "Run[Any]"]


class Panel:
    """Shows one run after the other; Start and Restart launch the next.

    Args:
        launch: Called as `launch(new_sink)` for Start and Restart, from the writing thread or, while a cell waits, from
            that cell's; it calls `new_sink(nproc)` once, gives the sink to the Run and returns it. None: the buttons
            stay disabled. An IpyelasticError or ValueError it raises is shown in the panel.
        keep: Called with each comm once, and for Stop and Kill with a function that takes a message's data in whatever
            thread it comes in: `notebook/kernel.py`'s `keep_on_subshell`.
        shown: The ranks that matter to the person; the first of them is shown first.
        over: Called in the writing thread, as often as it looks, once the run has ended, all of its output is out, and
            no other is to follow.

    Attributes:
        widget: What to display.

    Raises:
        FileNotFoundError: The front end is not built.
    """

    def __init__(
        self,
        launch: Launch | None = None,
        *,
        keep: Callable[..., object] = lambda comm, early=None: None,
        shown: frozenset[int] | None = None,
        over: Callable[[], object] = lambda: None,
    ) -> None:
        self._launch = launch
        self._over = over
        self._first = min(shown) if shown else 0
        self._lock = threading.Lock()
        self._inbox: deque[dict[str, Any]] = deque(maxlen=1000)
        self._window = Window()
        self._run: Run[Any] | None = None
        self._sink: PanelSink | None = None
        self._epoch = 0
        self._stop_asked: float | None = None
        self._wants_launch = False
        self._is_waited_for = False
        self._trouble = ""
        self._final: tuple[str, str] | None = None
        self._last_state: RunState | None = None
        self._pictures = PictureFeed()
        self._sent_state: RunState | None = None
        self._sent_epoch = 0
        self._sent_final: tuple[str, str] | None = None

        self._view = RunView()
        self._buttons = {
            "start": idle_button("Start", "play", "Run it again, with the notebook's values as they are now"),
            "stop": idle_button("Stop", "stop", "Ask every rank to end; what is left after the grace is killed"),
            "kill": idle_button("Kill", "times", "Kill every rank and whatever it started, now"),
            "restart": idle_button("Restart", "refresh", "Stop, then run it again"),
        }
        bar = ipywidgets.HBox([*self._buttons.values()])
        bar.add_class("ipyelastic-bar")
        self.widget = Box([bar, self._view], forms=self._forms)
        self.widget.add_class("ipyelastic-run")
        self._early: deque[str] = deque(maxlen=100)
        self._writer = Writer(self._look)
        for widget in widgets_below(self.widget):
            name = next((name for name in ("stop", "kill") if widget is self._buttons[name]), "")
            keep(widget.comm, functools.partial(self._take_early, name) if name else None)
        self._view.on_msg(self._take_message)
        acts = {"start": self.start, "stop": self.stop, "kill": self.kill, "restart": self.restart}
        for name, button in self._buttons.items():
            button.on_click(lambda _, act=acts[name]: act())
        self._write_buttons()

    # ------------------------------------------------------------------------------------------- from any thread

    def new_sink(self, nproc: int) -> PanelSink:
        """A sink for a Run that is about to be made and then followed."""
        self._next_sink = PanelSink(nproc, self._writer.wake)
        return self._next_sink

    def follow(self, run: Run[Any]) -> None:
        """Show this run, which was made with the newest `new_sink`, from now on."""
        with self._lock:
            self._run, self._sink = run, self._next_sink
            self._epoch += 1
            self._stop_asked, self._trouble, self._wants_launch, self._final = None, "", False, None
            self._last_state = None
        run.add_done_callback(lambda _: self._writer.wake())
        self._writer.wake()

    def look(self) -> None:
        """Have the writing thread look at how things stand. Returns at once."""
        self._writer.wake()

    def start(self) -> None:
        """Launch, unless a run is alive. Returns at once."""
        if not self.is_live and self._launch is not None:
            self._wants_launch = True
            self._writer.wake()

    def stop(self) -> None:
        """Ask the run to end; the grace counts down on the page. Returns at once."""
        with self._lock:
            run = self._run
            if run is None or run.done() or self._stop_asked is not None:
                return
            self._stop_asked = time.monotonic()
        run.stop()  # here and now: not even a busy writing thread delays it
        self._writer.wake()

    def kill(self) -> None:
        """Kill the run. Returns at once."""
        run = self._run
        if run is not None and not run.done():
            run.kill()
            self._writer.wake()

    def restart(self) -> None:
        """Stop the run if there is one, then launch. Returns at once."""
        if self._launch is None:
            return
        self._wants_launch = True
        self.stop()
        self._writer.wake()

    @property
    def is_live(self) -> bool:
        """Whether the run that is shown has not ended."""
        return self._run is not None and not self._run.done()

    def wait_here(self, is_waiting: bool) -> None:
        """Say whether a cell waits for the run: it then launches what Restart asks for, through `restarted()`."""
        self._is_waited_for = is_waiting
        self._writer.wake()

    def restarted(self) -> Run[Any] | None:
        """For the cell that waits, once its run has ended: the next run if Restart was clicked, launched here."""
        return self._launched() if self._wants_launch else None

    def finish(self, html: str, plain: str) -> None:
        """Give the page the static form, for a notebook that was loaded again and cannot be reached by display id.

        The run is then let go: nothing here keeps its values and arguments.
        """
        with self._lock:
            self._final = (html, plain)
        self._writer.wake()

    def close(self) -> None:
        """Take the widgets off every page and forget the output."""
        self._writer.close()
        for widget in (*self._buttons.values(), self._view, self.widget.children[0], self.widget):
            widget.close()
        self._sink = None

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _take_early(self, name: str, data: Any) -> None:
        # A click's message is seen here while another cell blocks; its callback comes later and changes nothing more.
        content = data.get("content") if isinstance(data, dict) else None
        if isinstance(content, dict) and content.get("event") == "click":
            self._early.append(name)
            self._writer.wake()

    def _take_message(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict):
            self._inbox.append(content)
            self._writer.wake()

    # ------------------------------------------------------------------------------------------- the writing thread

    def _look(self) -> float | None:
        while self._early:
            {"stop": self.stop, "kill": self.kill}[self._early.popleft()]()
        while self._inbox:
            self._obey(self._inbox.popleft())
        if self._wants_launch and not self.is_live and not self._is_waited_for:
            self._launched()
        self._write_buttons()
        with self._lock:
            run, sink, epoch, final = self._run, self._sink, self._epoch, self._final
        if sink is None or run is None:
            self._send_state(self._state())
            return None
        if epoch != self._sent_epoch:
            self._sent_epoch = epoch
            self._pictures = PictureFeed()
            if self._window.views:
                self._send_whole("*", sink)
        self._send_state(self._state())
        rows = sink.take_usage()
        if rows and self._window.views:
            self._send({"kind": "usage", "samples": rows})
        now = time.monotonic()
        if not self._window.views:
            sink.take_tick(None, now)  # into the tails only, for whoever comes
        elif self._window.is_open():
            deltas = sink.take_tick(self._window.shown, now)
            if deltas:
                message = {"kind": "output", "seq": self._window.next_seq(), "ranks": list(deltas)}
                self._send(message, list(deltas.values()))
        if self._window.views:
            self._send_pictures(run, now)
        if final is not None and self._sent_final != final and self._window.views:
            self._send_final(final)
        if sink.has_more:
            return 0.1
        if not run.done():
            return 0.5
        if final is not None:
            self._let_go(run)
            return None
        if not self._wants_launch and not self._is_waited_for:
            self._over()
        return None

    def _let_go(self, run: Run[Any]) -> None:
        state = self._state()
        with self._lock:
            if self._run is run:
                self._last_state, self._run = state, None

    def _obey(self, message: dict[str, Any]) -> None:
        kind, view = message.get("kind"), str(message.get("view"))
        window = self._window
        if kind == "bundle?":
            self._send({"kind": "bundle"}, [front_end()])
        elif kind == "ready":
            window.open_view(view)
            self._send_whole(view, self._sink)
        elif kind == "bye":
            window.close_view(view)
        elif kind == "ack" and isinstance(message.get("seq"), int):
            if view not in window.views:  # it was given up while a cell kept its word from us, and missed something
                window.open_view(view)
                self._send_whole(view, self._sink)
            window.take_ack(view, message["seq"])
        elif kind == "show":
            ranks = message.get("ranks")
            window.show(view, [rank for rank in ranks if isinstance(rank, int)] if isinstance(ranks, list) else None)

    def _launched(self) -> Run[Any] | None:
        assert self._launch is not None
        self._wants_launch = False
        try:
            run = self._launch(self.new_sink)
        except (IpyelasticError, ValueError, RuntimeError) as error:
            self._trouble = f"not started: {error}"
            return None
        self.follow(run)
        return run

    def _write_buttons(self) -> None:
        can_launch = self._launch is not None
        is_live = self.is_live
        enabled = {
            "start": can_launch and not is_live and not self._wants_launch,
            "stop": is_live and self._stop_asked is None,
            "kill": is_live,
            "restart": can_launch and is_live,
        }
        for name, is_enabled in enabled.items():
            if self._buttons[name].disabled == is_enabled:
                self._buttons[name].disabled = not is_enabled

    def _forms(self) -> dict[str, str]:
        run = self._run
        if run is None:
            return {}
        page, words = static_forms(run)
        if not run.done():
            page, words = f"{page}<p>{_NOT_LIVE}</p>", f"{words}\n{_NOT_LIVE}"
        return {"text/html": page, "text/plain": words}

    def _state(self) -> RunState:
        run = self._run
        if run is None and self._last_state is not None and not self._trouble:
            return self._last_state
        if run is None:
            return run_state(None, None, {}, self._trouble)
        board = run.board.snapshot()
        now = time.monotonic()
        grace_left_s = None
        if self._stop_asked is not None:
            grace_left_s = max(0.0, run.options.grace_s - (now - self._stop_asked))
        error = run.exception(0) if run.done() else None
        facts = RunFacts(
            epoch=self._epoch,
            run_id=run.run_id,
            name=run.name,
            is_live=not run.done(),
            elapsed_s=run.elapsed_s,
            max_restarts=getattr(run.options, "max_restarts", 0),
            grace_left_s=grace_left_s,
            first=self._first,
            error="" if error is None or type(error) in (ChildFailedError, RunStopped) else str(error),
        )
        failed = first_failure(board)
        last_lines = {} if failed is None else {failed: run.board.tail(failed, 20)}
        return run_state(facts, board, last_lines, self._trouble)

    # ------------------------------------------------------------------------------------------- what is sent

    def _send_state(self, state: RunState) -> None:
        if self._window.views and _lasting(state) != (self._sent_state and _lasting(self._sent_state)):
            self._sent_state = state
            self._send({"kind": "state", "state": state})

    def _send_whole(self, view: str, sink: PanelSink | None) -> None:
        tails = {} if sink is None else sink.tails()
        usage = [] if sink is None else sink.usage_history()
        state = self._sent_state = self._state()
        message = {"kind": "whole", "view": view, "seq": self._window.seq, "ranks": list(tails)}
        self._send({**message, "state": state, "usage": usage}, list(tails.values()))
        self._pictures.forget()
        if self._final is not None:
            self._send_final(self._final)

    def _send_pictures(self, run: Run[Any], now: float) -> None:
        is_over = run.done()
        while (new := self._pictures.take_new(run.log_dir, now, is_over=is_over))[0]:
            self._send({"kind": "pictures", "pictures": new[0]}, new[1])

    def _send_final(self, final: tuple[str, str]) -> None:
        self._sent_final = final
        self._send({"kind": "final", "box": self.widget.model_id, "html": final[0], "plain": final[1]})

    def _send(self, message: Any, buffers: list[bytes] | None = None) -> None:
        self._view.send(message, buffers=buffers)


def _lasting(state: RunState) -> dict[str, object]:
    """A state without what the page counts on by itself."""
    has_grace = state["grace_left_s"] is not None
    return {**state, "elapsed_s": 0.0 if state["is_live"] else state["elapsed_s"], "grace_left_s": has_grace}
