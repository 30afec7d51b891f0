"""All tests, as `make test` runs them: those in a browser beside the others. A browser mostly waits, and so do they.

    make test > [here] > pytest tests/browser (its output comes at the end), pytest --ignore=tests/browser

Exit code: the first one that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

BROWSER = "tests/browser"


def main() -> int:
    pytest = [sys.executable, "-m", "pytest", "-q"]
    with tempfile.TemporaryFile() as kept:
        # No `&` of a shell: what it starts ignores SIGINT, and kernels are interrupted here.
        beside = subprocess.Popen([*pytest, BROWSER], stdout=kept, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            code = subprocess.call([*pytest, f"--ignore={BROWSER}"])
            code = beside.wait() or code
        except KeyboardInterrupt:  # both have had it, too
            beside.wait()
            code = 130
        kept.seek(0)
        print(f"\n==> {BROWSER}", flush=True)
        sys.stdout.buffer.write(kept.read())
        sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
