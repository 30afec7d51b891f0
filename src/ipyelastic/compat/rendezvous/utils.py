"""`torch.distributed.elastic.rendezvous.utils`: endpoints and options as text, a timer, a pause."""

from __future__ import annotations

import ipaddress
import random
import re
import socket
import time
import weakref

from ...rendezvous import endpoint as _endpoint
from ...rendezvous import periodic as _periodic
from ...rendezvous import standalone as _standalone
from ...rendezvous import static as _static
from ...rendezvous.endpoint import (
    _matches_machine_hostname,
    _parse_rendezvous_config,
    _try_parse_port,
    parse_rendezvous_endpoint,
)
from ...rendezvous.periodic import _delay, _PeriodicTimer
from .._face import face

__all__ = [
    "_PeriodicTimer",
    "_delay",
    "_matches_machine_hostname",
    "_parse_rendezvous_config",
    "_try_parse_port",
    "ipaddress",
    "parse_rendezvous_endpoint",
    "random",
    "re",
    "socket",
    "time",
    "weakref",
]

face(
    __name__,
    {
        "_PeriodicTimer": [_periodic],
        "_delay": [_periodic],
        "_matches_machine_hostname": [_endpoint],
        "_parse_rendezvous_config": [_endpoint],
        "_try_parse_port": [_endpoint],
        "ipaddress": [_endpoint],
        "parse_rendezvous_endpoint": [_endpoint, _standalone, _static],
        "random": [_periodic],
        "re": [_endpoint],
        "socket": [_endpoint],
        "time": [_periodic],
        "weakref": [_periodic],
    },
)
