"""Events: what they say as JSON, and where they go."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from ipyelastic.telemetry import events
from ipyelastic.telemetry.events import Event, EventSource, NodeState, RdzvEvent

Heard = list[dict]


@pytest.fixture(autouse=True)
def as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No loggers yet; those of the test lose their handlers after it."""
    monkeypatch.delenv("LOGLEVEL", raising=False)
    monkeypatch.setattr(events, "_events_loggers", {})
    monkeypatch.setattr(events, "_log_handlers", dict(events._log_handlers))
    yield
    for name in events._log_handlers:
        logging.getLogger(f"torchelastic-events-{name}").handlers.clear()


@pytest.fixture
def listen() -> Callable[[str], Heard]:
    """Has a handler of the test's own at a destination, and returns what it gets."""

    def listening(destination: str) -> Heard:
        heard: Heard = []

        class Hears(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                assert record.levelno == logging.INFO
                heard.append(json.loads(record.getMessage()))

        logging.getLogger(f"torchelastic-events-{destination}").handlers.clear()
        events._log_handlers[destination] = Hears()
        return heard

    return listening


def test_an_event_is_one_line_of_json_and_back() -> None:
    event = Event("n", EventSource.AGENT, 3, {"a": 1, "b": None, "c": 1.5, "d": True, "e": "two\nlines"})
    assert (
        str(event)
        == event.serialize()
        == (
            '{"name": "n", "source": "AGENT", "timestamp": 3, '
            '"metadata": {"a": 1, "b": null, "c": 1.5, "d": true, "e": "two\\nlines"}}'
        )
    )
    again = Event.deserialize(event.serialize())
    assert again == event
    assert again.source is EventSource.AGENT
    assert Event.deserialize(event) is event


def test_a_rendezvous_event_is_one_line_of_json_and_back() -> None:
    event = RdzvEvent("n", "id", "msg", "host", 1, NodeState.RUNNING)
    assert (
        str(event)
        == event.serialize()
        == (
            '{"name": "n", "run_id": "id", "message": "msg", "hostname": "host", "pid": 1, "node_state": "RUNNING", '
            '"master_endpoint": "", "rank": null, "local_id": null, "error_trace": ""}'
        )
    )
    again = RdzvEvent.deserialize(event.serialize())
    assert again == event
    assert again.node_state is NodeState.RUNNING
    assert RdzvEvent.deserialize(event) is event


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (3, TypeError, "cannot read an event from 3: expected its JSON text or the event itself"),
        (None, TypeError, "cannot read an event from None: expected its JSON text or the event itself"),
        ('{"name": "a"}', KeyError, "\"an event without 'source'\""),
        ('{"name": "a", "source": "X"}', KeyError, "\"source='X': expected one of AGENT, WORKER\""),
    ],
)
def test_what_is_no_event_is_refused(data: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Event.deserialize(data)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_two_events_do_not_share_metadata() -> None:
    Event("a", EventSource.AGENT).metadata["x"] = 1
    assert Event("b", EventSource.AGENT).metadata == {}


def test_by_default_events_go_nowhere(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[object] = []
    # Not caplog: that one listens at loggers that do not propagate, too.
    monkeypatch.setattr(logging.root, "handlers", [mock.Mock(spec=logging.Handler, level=0, handle=reached.append)])
    events.record(Event("n", EventSource.WORKER))
    events.record_rdzv_event(RdzvEvent("n", "id", "msg", "host", 1, NodeState.INIT))
    assert (capfd.readouterr(), reached) == (("", ""), [])
    logging.getLogger("tests.telemetry").error("the root's handlers are reached by others")
    assert len(reached) == 1


def test_the_console_is_stderr_as_it_is_then(capsys: pytest.CaptureFixture[str]) -> None:
    events.record(Event("n", EventSource.WORKER), "console")
    assert capsys.readouterr().err == '{"name": "n", "source": "WORKER", "timestamp": 0, "metadata": {}}\n'
    assert events.get_logging_handler("console").stream is sys.stderr  # type: ignore[attr-defined]


def test_an_event_goes_to_the_handler_of_its_destination(listen: Callable[[str], Heard]) -> None:
    heard, other = listen("mine"), listen("other")
    events.record(Event("n", EventSource.WORKER, 5), "mine")
    assert heard == [{"name": "n", "source": "WORKER", "timestamp": 5, "metadata": {}}]
    assert other == []


def test_an_unknown_destination_names_those_there_are() -> None:
    with pytest.raises(KeyError) as caught:
        events.record(Event("n", EventSource.WORKER), "nul")
    assert caught.value.args == ("event destination 'nul': expected one of console, dynamic_rendezvous, null",)


@pytest.mark.parametrize(("loglevel", "level"), [(None, logging.INFO), ("DEBUG", 10), ("error", 40)])
def test_a_loggers_level_is_what_loglevel_says(
    monkeypatch: pytest.MonkeyPatch, loglevel: str | None, level: int
) -> None:
    if loglevel:
        monkeypatch.setenv("LOGLEVEL", loglevel)
    logger = events._get_or_create_logger("null")
    assert (logger.name, logger.level, logger.propagate) == ("torchelastic-events-null", level, False)
    assert events._get_or_create_logger("null") is logger


def test_a_wrong_loglevel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "loud")
    with pytest.raises(ValueError, match=r"^LOGLEVEL='loud': expected a level such as INFO or WARNING$"):
        events.record(Event("n", EventSource.AGENT))


def test_a_rendezvous_event_says_who_recorded_it(listen: Callable[[str], Heard]) -> None:
    heard = listen("dynamic_rendezvous")
    events.construct_and_record_rdzv_event("rid", "msg", NodeState.RUNNING)
    events.construct_and_record_rdzv_event(
        "rid", "msg", NodeState.RUNNING, "x", "h", 5, master_endpoint="e", local_id=0, rank=3
    )
    file, function = os.path.basename(__file__), "test_a_rendezvous_event_says_who_recorded_it"
    common = {"run_id": "rid", "message": "msg", "node_state": "RUNNING", "error_trace": ""}
    here = {"hostname": socket.gethostname(), "pid": os.getpid(), "master_endpoint": "", "rank": None, "local_id": None}
    there = {"hostname": "h", "pid": 5, "master_endpoint": "e", "rank": 3, "local_id": 0}
    assert heard == [
        {"name": f"{file}:{function}", **common, **here},
        {"name": f"{file}:x", **common, **there},
    ]


def test_only_a_failed_node_brings_its_traceback(listen: Callable[[str], Heard]) -> None:
    heard = listen("dynamic_rendezvous")
    try:
        raise ValueError("on purpose")
    except ValueError:
        events.construct_and_record_rdzv_event("rid", "msg", NodeState.FAILED)
        events.construct_and_record_rdzv_event("rid", "msg", NodeState.RUNNING)
    events.construct_and_record_rdzv_event("rid", "msg", NodeState.FAILED)
    assert heard[0]["error_trace"].startswith("Traceback (most recent call last):")
    assert heard[0]["error_trace"].endswith("ValueError: on purpose\n")
    assert [each["error_trace"] for each in heard[1:]] == ["", ""]


def test_nothing_is_made_for_a_rendezvous_that_nobody_listens_to(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(events, "record_rdzv_event", recorded.append)
    events.construct_and_record_rdzv_event("rid", "msg", NodeState.RUNNING)
    assert recorded == []
    monkeypatch.setattr(events, "get_logging_handler", lambda destination="null": logging.StreamHandler())
    events.construct_and_record_rdzv_event("rid", "msg", NodeState.RUNNING)
    assert len(recorded) == 1


def test_an_event_that_nobody_hears_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def serialize(event: events.Event) -> str:
        written.append(event.name)
        return event.name

    monkeypatch.setattr(events.Event, "serialize", serialize)
    logger = events._get_or_create_logger("null")
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda made: heard.append(made.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    events.record(events.Event("one", events.EventSource.AGENT))
    logger.addHandler(handler)
    events.record(events.Event("two", events.EventSource.AGENT))
    assert (written, heard) == (["two"], ["two"])
