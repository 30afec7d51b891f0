"""Events: one line of JSON for each change of state of an agent, a worker or a rendezvous, sent to a logging handler.

    agent, launcher, rendezvous -> record(event, destination) -> logger "torchelastic-events-<destination>" -> handler

Runs in: owner, any thread. Callers say `events.record(...)` on this module, so that a name replaced here (through
`compat/events`) is replaced for them. Not to be mixed up with `terms/events.py`: those are what a run shows its user.
Source: torch 2.13 for names, texts and JSON; compared with torch's by tests/compat/test_events.py.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import traceback
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, TextIO, TypeVar

from ..terms import env

__all__ = [
    "Event",
    "EventSource",
    "EventMetadataValue",
    "NodeState",
    "RdzvEvent",
    "record",
    "record_rdzv_event",
    "construct_and_record_rdzv_event",
    "get_logging_handler",
]

EventMetadataValue = str | int | float | bool | None


class EventSource(str, Enum):
    """Who an event is about: the AGENT, or a WORKER.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """

    AGENT = "AGENT"
    WORKER = "WORKER"


class NodeState(str, Enum):
    """What a node of a rendezvous is doing: INIT, RUNNING, SUCCEEDED or FAILED.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass
class Event:
    """Something that happened to an agent or a worker.

    Args:
        name: `torchelastic.worker.status.FAILED`, for one.
        source: Who it is about.
        timestamp: When, in a unit that the caller chooses; 0 for not said.
        metadata: Anything that JSON can carry, by name.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, EventMetadataValue] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.serialize()

    def serialize(self) -> str:
        """One line of JSON. Raises TypeError for metadata that JSON cannot carry."""
        return json.dumps(asdict(self))

    @staticmethod
    def deserialize(data: str | Event) -> Event:
        """The event of a `serialize`d text; an event is handed back as it is.

        Args:
            data: The text, or an event.

        Raises:
            TypeError: Neither text nor event.
            KeyError: No source, or an unknown one.
        """
        if isinstance(data, Event):
            return data
        return Event(**_fields(data, "source", EventSource))


@dataclass
class RdzvEvent:
    """Something that happened in a rendezvous.

    Args:
        name: Where in the code: `file.py:function`.
        run_id: Of the rendezvous.
        message: In words.
        hostname: Of the node.
        pid: Of the node's agent.
        node_state: What the node was doing.
        master_endpoint: The store's address, when it is known.
        rank: Of the node, when it has one.
        local_id: Of the agent, when one machine has several.
        error_trace: The traceback of what failed.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """

    name: str
    run_id: str
    message: str
    hostname: str
    pid: int
    node_state: NodeState
    master_endpoint: str = ""
    rank: int | None = None
    local_id: int | None = None
    error_trace: str = ""

    def __str__(self) -> str:
        return self.serialize()

    def serialize(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def deserialize(data: str | RdzvEvent) -> RdzvEvent:
        """The event of a `serialize`d text, `data`; an event is handed back as it is. Errors as
        `Event.deserialize`'s.
        """
        if isinstance(data, RdzvEvent):
            return data
        return RdzvEvent(**_fields(data, "node_state", NodeState))


_Kind = TypeVar("_Kind", EventSource, NodeState)


def _fields(data: object, name: str, kind: type[_Kind]) -> dict[str, Any]:
    if not isinstance(data, (str, bytes)):
        raise TypeError(f"cannot read an event from {data!r}: expected its JSON text or the event itself")
    fields: dict[str, Any] = json.loads(data)
    if name not in fields:
        raise KeyError(f"an event without {name!r}")
    if fields[name] not in kind.__members__:
        raise KeyError(f"{name}={fields[name]!r}: expected one of {', '.join(kind.__members__)}")
    fields[name] = kind[fields[name]]
    return fields


# ---------------------------------------------------------------------------------------------------------- recording


class _Console(logging.StreamHandler):  # type: ignore[type-arg]  # 3.10 cannot subscript it
    """Writes to what is `sys.stderr` at that moment; the one of the import may be a closed capture by then."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


_log_handlers: dict[str, logging.Handler] = {
    "console": _Console(),
    "dynamic_rendezvous": logging.NullHandler(),
    "null": logging.NullHandler(),
}
_events_loggers: dict[str, logging.Logger] = {}


def get_logging_handler(destination: str = "null") -> logging.Handler:
    """Where events for `destination` go: "console", "null", "dynamic_rendezvous" or what was added to the handlers.

    Raises KeyError for one that is not known.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """
    try:
        return _log_handlers[destination]
    except KeyError:
        raise KeyError(f"event destination {destination!r}: expected one of {', '.join(_log_handlers)}") from None


def _get_or_create_logger(destination: str = "null") -> logging.Logger:
    """The logger of a destination, at the level of LOGLEVEL (read the first time only), else INFO.

    Raises:
        KeyError: An unknown destination.
        ValueError: LOGLEVEL holds no level's name.
    """
    if destination not in _events_loggers:
        handler = get_logging_handler(destination)
        logger = logging.getLogger(f"torchelastic-events-{destination}")
        level = os.environ.get(env.LOGLEVEL, "INFO")
        try:
            logger.setLevel(level.upper())
        except ValueError:
            raise ValueError(f"{env.LOGLEVEL}={level!r}: expected a level such as INFO or WARNING") from None
        logger.propagate = False  # the root's handlers show a program's own words
        logger.addHandler(handler)
        _events_loggers[destination] = logger
    return _events_loggers[destination]


def record(event: Event, destination: str = "null") -> None:
    """Send an event to a destination.

    Args:
        event: What happened.
        destination: "null" (nowhere), "console" (`sys.stderr`) or what was added to the handlers.

    Raises:
        KeyError: An unknown destination.
        ValueError: LOGLEVEL holds no level's name.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """
    logger = _get_or_create_logger(destination)
    if not _is_unheard(logger):
        logger.info(event.serialize())


def _is_unheard(logger: logging.Logger) -> bool:
    """Whether writing an event down, a third of a millisecond, would be for nobody."""
    handlers, filters = logger.handlers, logger.filters
    return not filters and not logger.propagate and all(type(one) is logging.NullHandler for one in handlers)


def record_rdzv_event(event: RdzvEvent) -> None:
    """Send a rendezvous `event` to where those go; by default nowhere.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """
    _get_or_create_logger("dynamic_rendezvous").info(event.serialize())


def construct_and_record_rdzv_event(
    run_id: str,
    message: str,
    node_state: NodeState,
    name: str = "",
    hostname: str = "",
    pid: int | None = None,
    master_endpoint: str = "",
    local_id: int | None = None,
    rank: int | None = None,
) -> None:
    """Make a rendezvous event from the caller's circumstances and record it; nothing at all when nobody listens.

    Args:
        run_id: Of the rendezvous.
        message: In words.
        node_state: With FAILED, the traceback of the exception being handled comes along.
        name: After the caller's file name; the caller's function by default.
        hostname: This machine's by default, without a look-up.
        pid: This process by default.
        master_endpoint: The store's address, when it is known.
        local_id: Of the agent, when one machine has several.
        rank: Of the node, when it has one.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/events.html.
    """
    if isinstance(get_logging_handler("dynamic_rendezvous"), logging.NullHandler):
        return
    caller = sys._getframe(1).f_code
    failed = node_state == NodeState.FAILED and sys.exc_info()[0] is not None
    record_rdzv_event(
        RdzvEvent(
            name=f"{os.path.basename(caller.co_filename)}:{name or caller.co_name}",
            run_id=run_id,
            message=message,
            hostname=hostname or socket.gethostname(),
            pid=os.getpid() if pid is None else pid,
            node_state=node_state,
            master_endpoint=master_endpoint,
            rank=rank,
            local_id=local_id,
            error_trace=traceback.format_exc() if failed else "",
        )
    )
