"""Rendezvous handlers by name: ours, torch's, and what plug-ins offer.

    launcher > [get_rendezvous_handler] > standalone.py | static.py | torchs.py | an entry point of `torchrun.handlers`

Runs in: launcher. Plug-ins are looked for only when a name is asked for that is not among our own: the search reads
the metadata of every installed distribution.
Source: torch 2.13 (SEEDS section 15). Checked by tests/rendezvous/test_choose.py.
"""

from __future__ import annotations

import logging
from typing import Any

from . import standalone, static, torchs
from .handler import RendezvousHandler, RendezvousHandlerRegistry, RendezvousParameters

__all__ = ["entry_points", "get_rendezvous_handler", "rendezvous_handler_registry"]

log = logging.getLogger(__name__)

_PLUG_INS = "torchrun.handlers"
_plug_ins: dict[str, str] = {}
"""Entry points that are registered, by name."""


class _Registry(RendezvousHandlerRegistry):
    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """As the base; plug-ins are known, too, and what they make for torch works with our agent."""
        if params.backend not in self._registry:
            _register_out_of_tree_handlers()
        return torchs.as_ours(super().create_handler(params))


rendezvous_handler_registry: RendezvousHandlerRegistry = _Registry()


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """A handler for `params.backend`.

    Args:
        params: Its backend is "standalone", "static", "c10d", "etcd", "etcd-v2" or a plug-in's name.

    Raises:
        ValueError: No such backend, or parameters that it does not take.
        ImportError: What it needs is not installed; the text says what to install.
        RendezvousError: Its server cannot be reached, or another of the family.
        RuntimeError: The handler that a plug-in made has another backend's name.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """
    return rendezvous_handler_registry.create_handler(params)


def _create_standalone_handler(params: RendezvousParameters) -> RendezvousHandler:
    return standalone.create_handler(params)


def _create_static_handler(params: RendezvousParameters) -> RendezvousHandler:
    return static.create_rdzv_handler(params)


def _create_c10d_handler(params: RendezvousParameters) -> RendezvousHandler:
    return torchs.create_handler(params)


def _create_etcd_handler(params: RendezvousParameters) -> RendezvousHandler:
    return torchs.create_handler(params)


def _create_etcd_v2_handler(params: RendezvousParameters) -> RendezvousHandler:
    return torchs.create_handler(params)


def entry_points(**params: Any) -> Any:
    """The standard library's, which takes these `params`; its import costs more than a whole standalone rendezvous.

    Source: https://docs.python.org/3/library/importlib.metadata.html.
    """
    from importlib import metadata

    return metadata.entry_points(**params)


def _register_default_handlers() -> None:
    for backend, creator in {
        "standalone": _create_standalone_handler,
        "static": _create_static_handler,
        "c10d": _create_c10d_handler,
        "etcd": _create_etcd_handler,
        "etcd-v2": _create_etcd_v2_handler,
    }.items():
        rendezvous_handler_registry.register(backend, creator)


def _register_out_of_tree_handlers() -> None:
    """Register what entry points of group `torchrun.handlers` offer; one that fails only warns.

    Each names a function that returns the creator of a handler.
    """
    for plug_in in entry_points(group=_PLUG_INS):
        if _plug_ins.get(plug_in.name) == plug_in.value:
            continue  # registered before; a new search finds those that were installed since
        try:
            creator = plug_in.load()()
            if not callable(creator):
                raise TypeError(f"{plug_in.value} returned {creator!r}: expected a function that makes a handler")
            rendezvous_handler_registry.register(plug_in.name, creator)
            _plug_ins[plug_in.name] = plug_in.value
        except Exception:
            log.warning("Exception while loading the rendezvous plug-in %r", plug_in.name, exc_info=True)


_register_default_handlers()
