"""One node of a rendezvous of two, in a process of its own: `python one_node.py '{"backend": ..., "endpoint": ...}'`.

Meets, writes its name into the store, reads everybody's, and prints JSON. Options besides backend, endpoint and
`closes` go to the handler. With `closes`: rank 1 shuts the rendezvous down, and rank 0 says what its next attempt
came to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ipyelastic.rendezvous.choose import get_rendezvous_handler
from ipyelastic.rendezvous.handler import RendezvousInfo, RendezvousParameters
from ipyelastic.terms.errors import RendezvousError
from support.waiting import wait_until


def main(backend: str, endpoint: str, closes: bool = False, **options: object) -> None:
    handler = get_rendezvous_handler(RendezvousParameters(backend, endpoint, "two nodes", 2, 2, **options))
    info = handler.next_rendezvous()
    assert isinstance(info, RendezvousInfo)
    info.store.set(f"name/{info.rank}", f"node {info.rank}")
    everybody = [name.decode() for name in info.store.multi_get(["name/0", "name/1"])]
    where = info.bootstrap_store_info
    found = {
        "rank": info.rank,
        "world_size": info.world_size,
        "master": [where.master_addr, where.master_port],
        "everybody": everybody,
        "use_agent_store": handler.use_agent_store,
    }
    is_host = bool(options.get("is_host", info.rank == 0))
    if not is_host:
        if closes:
            assert handler.shutdown()
        info.store.set("left", "1")  # the last word with the store: the host may go now
    else:
        info.store.get("left")
        if closes:
            wait_until(handler.is_closed)  # torch looks at the shared state once a second
            try:
                handler.next_rendezvous()
            except RendezvousError as error:
                found["next"] = [type(error).__name__, type(error.__cause__).__module__.partition(".")[0]]
        handler.shutdown()
    print(json.dumps(found))


main(**json.loads(sys.argv[1]))
