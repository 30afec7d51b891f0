"""`torch.distributed.elastic.rendezvous.etcd_rendezvous`, torch's own: the first etcd handler. Needs python-etcd.

Its handlers raise torch's errors: `registry.get_rendezvous_handler` makes one whose errors are ours.
"""

from __future__ import annotations

from ._handed_on import hand_on

hand_on(__name__, "torch.distributed.elastic.rendezvous.etcd_rendezvous")
