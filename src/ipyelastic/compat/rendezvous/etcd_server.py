"""`torch.distributed.elastic.rendezvous.etcd_server`, torch's own: an etcd server for tests. Needs the etcd program.

A fault of torch's stays: `EtcdServer.start` returns before its exit hook is registered; call `stop`.
"""

from __future__ import annotations

from ._handed_on import hand_on

hand_on(__name__, "torch.distributed.elastic.rendezvous.etcd_server")
