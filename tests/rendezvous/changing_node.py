"""A node of a rendezvous of one or two, in a process of its own: `python changing_node.py PORT host|guest`.

For each number on its standard input it meets again until it is one of so many, as an agent does when nodes come and
go, and prints `[rank, world size, the master's port]`. It ends with its input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ipyelastic.rendezvous.choose import get_rendezvous_handler
from ipyelastic.rendezvous.handler import RendezvousParameters
from support.waiting import wait_until


def main(port: str, role: str) -> None:
    options = {"last_call_timeout": 1, "keep_alive_interval": 1, "keep_alive_max_attempt": 5}
    handler = get_rendezvous_handler(
        RendezvousParameters("c10d", f"127.0.0.1:{port}", "job", 1, 2, is_host=role == "host", **options)
    )
    for line in sys.stdin:
        info = handler.next_rendezvous()
        while info.world_size != int(line):
            # The other one was late, and this one did not wait for ever.
            wait_until(lambda: handler.num_nodes_waiting() == 1, within_s=100)
            info = handler.next_rendezvous()
        print(json.dumps([info.rank, info.world_size, info.bootstrap_store_info.master_port]), flush=True)


main(*sys.argv[1:])
