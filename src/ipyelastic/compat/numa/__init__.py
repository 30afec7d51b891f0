"""`torch.numa`: bind workers to the CPUs near their GPU."""

from __future__ import annotations

from . import binding as binding
