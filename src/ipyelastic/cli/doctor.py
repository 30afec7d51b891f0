"""`ipyelastic doctor`: what works here, what is missing, and what to do about it.

    main > [here] > machine, packages, gpus, trials (real launches) > findings, told

Runs in: owner (a shell's process). Looks and tries; changes nothing.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

from ..terms.errors import nearest
from . import gpus, machine, packages, trials
from .findings import as_json, as_text

__all__ = ["doctor_command"]

_HELP = """usage: ipyelastic doctor [--json]

Says what works on this machine with this Python, what is missing, and what to do about it: Python and platform,
packages and their versions, start methods (each starts one rank, for real), limits, GPUs and who uses them, torch.

  --json     the same as JSON
  -h, --help show this help

The exit code is 1 when something needs doing, else 0.
"""


def doctor_command(words: Sequence[str]) -> int:
    """Obey `ipyelastic doctor WORDS`; returns the exit code."""
    for word in words:
        if word in ("-h", "--help"):
            print(_HELP, end="")
            return 0
        if word != "--json":
            print(f"ipyelastic doctor: {word}: expected --json{nearest(word, ['--json'])}", file=sys.stderr)
            return 2
    gpu_findings, seen = gpus.look()
    findings = [
        *machine.look(),
        *packages.look(),
        *trials.start_methods(),
        *gpu_findings,
        *trials.torch(seen),
    ]
    version = sys.modules["ipyelastic"].__version__
    if "--json" in words:
        print(as_json(findings, version))
    else:
        print(as_text(findings, f"ipyelastic {version} on {platform.node() or 'this machine'}"))
    return 1 if any(found.state == "do" for found in findings) else 0
