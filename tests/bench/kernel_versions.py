"""The kernel's tests against several ipykernels, each in a venv of its own, and a table of what came out.

    python tests/bench/kernel_versions.py [--venvs FOLDER] [VERSION ...]     VERSION: 6.31.0, or "newest"

Runs in: any Python; makes `FOLDER/kv-VERSION` where it is missing and keeps it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VERSIONS = ("6.29.5", "6.31.0", "7.0.1", "7.1.0", "7.3.0", "7.4.0", "newest")
TESTS = "tests/notebook/test_kernel.py"
# What ipyelastic and these tests import; ipyelastic itself is the working tree.
NEEDED = ("ipywidgets", "psutil", "cloudpickle", "threadpoolctl", "nbclient", "pytest", "pytest-timeout")


def venv_python(folder: Path, version: str) -> Path:
    """The Python of a venv with this ipykernel; made when it is missing."""
    python = folder / f"kv-{version}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        wanted = "ipykernel" if version == "newest" else f"ipykernel=={version}"
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted, *NEEDED]
        subprocess.run(pip, check=True)
    return python


def row(python: Path, version: str) -> tuple[bool, str]:
    """Run the tests; whether all passed, and the table's line."""
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "JUPYTER_PREFER_ENV_PATH": "1"}
    ended = subprocess.run(
        [python, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", TESTS],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    if ended.returncode:
        print(ended.stdout)
    click = re.search(r"^click: median ([\d.]+) ms, most ([\d.]+) ms, ipykernel (\S+)$", ended.stdout, re.MULTILINE)
    counts = re.search(r"^(?=\d+ (?:passed|failed))(.*) in [\d.]+s", ended.stdout, re.MULTILINE)
    median, most, got = click.groups() if click else ("-", "-", version)
    words = counts[1] if counts else f"exit status {ended.returncode}"
    took = time.monotonic() - began
    return not ended.returncode, f"| {version} | {got.strip(chr(39))} | {words} | {median} | {most} | {took:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()), help="folder for the venvs")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    options = parser.parse_args()
    print(f"Python {sysconfig.get_python_version()}, {os.cpu_count()} cores")
    rows = [row(venv_python(options.venvs, version), version) for version in options.versions]
    print("| asked for | ipykernel | tests | click median, ms | click most, ms | took, s |\n|---|---|---|---|---|---|")
    print("\n".join(line for _, line in rows))
    return 0 if all(ok for ok, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
