"""`torch.distributed.elastic.rendezvous.etcd_store`, torch's own: torch's Store in etcd. Needs python-etcd.

Without python-etcd torch raises its own error at the first use.
"""

from __future__ import annotations

from ._handed_on import hand_on

hand_on(__name__, "torch.distributed.elastic.rendezvous.etcd_store")
