"""`torch.distributed.elastic.rendezvous.etcd_rendezvous_backend`, torch's own: its state in etcd.

Its handlers raise torch's errors: `registry.get_rendezvous_handler` makes one whose errors are ours.
Torch keeps the shared state as a pickle in a network store and unpickles what it finds there: whoever can write to
the store can run code in every agent.
"""

from __future__ import annotations

from ._handed_on import hand_on

hand_on(__name__, "torch.distributed.elastic.rendezvous.etcd_rendezvous_backend")
