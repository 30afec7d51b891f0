"""All tests, as `make test` runs them: in parts, three at a time. Most of them wait most of the time.

    make test > [here] > one pytest a part; its output comes when it has ended

Words given are handed on to each pytest. Exit code: the first one that is not 0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO

TESTS = Path(__file__).parent
PARTS = [  # the longest first
    ["browser", "house"],
    ["agent", "cli", "compat", "contexts", "devices", "engines", "failures", "faults"],
    ["forkserver", "headless"],
    [f"notebook/test_{letter}*.py" for letter in "abcdefgh"],
    [f"notebook/test_{letter}*.py" for letter in "ijklmnopqrstuvwxyz_"],
]
AT_A_TIME = 3


def paths() -> list[list[str]]:
    """What each pytest is given; the last part is everything else."""
    found = [[str(path) for name in part for path in sorted(TESTS.glob(name))] for part in PARTS]
    taken = {Path(path) for part in found for path in part}
    rest = [path for path in sorted(TESTS.iterdir()) if path.is_dir() and any(path.glob("**/test_*.py"))]
    rest = [path for path in [*rest, *sorted(TESTS.glob("test_*.py"))] if path not in taken]
    return [*found, [str(path) for path in rest if path.name != "notebook"]]


def run(part: list[str], file: IO[bytes]) -> int:
    """One part; its output goes to the file."""
    # No `&` of a shell: what it starts ignores SIGINT, and kernels are interrupted here.
    command = [sys.executable, "-m", "pytest", "-q", *part, *sys.argv[1:]]
    return subprocess.call(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def main() -> int:
    codes = []
    with ThreadPoolExecutor(AT_A_TIME) as lanes:
        files = {}
        for part in paths():
            file = tempfile.TemporaryFile()
            files[lanes.submit(run, part, file)] = part, file
        for ended in as_completed(files):
            part, file = files[ended]
            print(f"\n==> {' '.join(str(Path(path).relative_to(TESTS)) for path in part)}", flush=True)
            with file:
                file.seek(0)
                sys.stdout.buffer.write(file.read())
                sys.stdout.buffer.flush()
            codes.append(ended.result())
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
