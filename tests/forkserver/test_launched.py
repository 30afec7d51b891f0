"""The owner's end of a run: nothing the server reported is lost."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

from ipyelastic.forkserver.launched import Launched


def test_reports_are_read_although_the_server_closed_before_reading_our_last_request() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = SimpleNamespace(trim=lambda: None, runs=set(), pidfd=-1, is_alive=True, death=lambda: "dead")
    launched = Launched(server, here, "mark")  # type: ignore[arg-type]
    there.send(json.dumps({"ev": "exit", "rank": 0}).encode())
    there.send(json.dumps({"ev": "ended", "left": []}).encode())
    launched.ask("stop", why="peer failed")  # stays unread: closing now resets our end
    there.close()
    assert [report["ev"] for report in launched.receive()] == ["exit", "ended"]
    assert launched.is_ended
    launched.close()
