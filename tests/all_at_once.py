"""All tests, as `make test` runs them: three parts beside each other. Most of them wait most of the time.

    make test > [here] > one pytest a part; the last part's output is live, that of the others comes when it has ended

Exit code: the first one that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

PARTS = [
    ["tests/browser", "tests/house"],
    [f"tests/{room}" for room in ("agent", "cli", "compat", "contexts", "devices", "engines", "failures", "faults")],
]
"""The last part is everything else."""


def main() -> int:
    pytest = [sys.executable, "-m", "pytest", "-q"]
    rest = [f"--ignore={folder}" for part in PARTS for folder in part]
    kept = [tempfile.TemporaryFile() for _ in PARTS]
    # No `&` of a shell: what it starts ignores SIGINT, and kernels are interrupted here.
    beside = [
        subprocess.Popen([*pytest, *part], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        for part, file in zip(PARTS, kept, strict=True)
    ]
    try:
        codes = [subprocess.call([*pytest, *rest]), *(process.wait() for process in beside)]
    except KeyboardInterrupt:  # they have had it, too
        codes = [130, *(process.wait() for process in beside)]
    for part, file in zip(PARTS, kept, strict=True):
        print(f"\n==> {' '.join(part)}", flush=True)
        file.seek(0)
        sys.stdout.buffer.write(file.read())
        sys.stdout.buffer.flush()
        file.close()
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
