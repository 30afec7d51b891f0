"""`python -m ipyelastic`: the command `ipyelastic` without its script.

Runs in: owner (a shell's process).
"""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
