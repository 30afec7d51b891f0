"""One launch of test_held_port.py: choose a port, let the others choose, then rank 0 listens and rank 1 asks who it is.

    python one_launch.py NUMBER FOLDER GATE

Between choosing and listening it takes many more ports, as a busy machine's programs do: whoever's port is not held
loses it to one of the other launches.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from support.gates import wait_at

PORTS_OF_OTHERS = 150


def main() -> None:
    number, folder, gate = sys.argv[1:]
    rendezvous = StandaloneRendezvous(f"launch {number}")
    port = rendezvous.next_rendezvous().bootstrap_store_info.master_port
    with ExitStack() as others:
        for _ in range(PORTS_OF_OTHERS):
            stranger = others.enter_context(socket.socket())
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
        (Path(folder) / number).touch()
        wait_at(gate)
        told, tells = os.pipe()
        child = os.fork()
        if child == 0:
            rank_0(port, number, tells)
        os.close(tells)
        listening = os.read(told, 100)
        os.close(told)
        if listening != b"listening":
            sys.exit(f"rank 0 could not listen on {port}: {listening!r}")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as rank_1:
            heard = rank_1.makefile().read()
        _, status = os.waitpid(child, 0)
    rendezvous.shutdown()
    print(json.dumps({"port": port, "heard": heard}))
    sys.exit(os.waitstatus_to_exitcode(status))


def rank_0(port: int, number: str, tells: int) -> None:
    """As torch's TCPStore and JAX's coordinator do it."""
    try:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", port))
            server.listen()
            os.write(tells, b"listening")
            connection, _ = server.accept()
            with connection:
                connection.sendall(f"rank 0 of launch {number}".encode())
        os._exit(0)
    except OSError as error:
        os.write(tells, str(error).encode()[:100])
        os._exit(1)


main()
