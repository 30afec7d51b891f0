"""Run the browser tests with each ipykernel that matters, in JupyterLab and Notebook 7, and print how they went.

    make test-matrix (ARGS="-k stop" goes to pytest) -> [here] -> a venv for each, build/matrix/ -> pytest -> a table

Runs in: a shell, by hand: it takes a quarter of an hour and more. Ends with 1 when a test failed.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "matrix"
KERNELS = {"6.31": "ipykernel==6.31.*", "7.3": "ipykernel==7.3.*", "newest": "ipykernel"}
NEEDED = ["jupyterlab", "notebook", "playwright", "pytest", "pytest-timeout", "nbclient"]
APPS = {"lab": "JupyterLab", "notebook": "Notebook"}
WHAT = "import importlib.metadata as m; print(*(m.version(n) for n in ('ipykernel', 'jupyterlab', 'notebook')))"


def installed(name: str, wanted: str) -> Path:
    """A Python that has us, editable, and this ipykernel."""
    venv = FOLDER / name
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*pip, "-e", ROOT, wanted, *NEEDED], check=True)
    return python


def counted(report: Path) -> dict[str, Counter[str]]:
    """How many tests passed, were skipped and failed, by application; the failed ones' names are printed."""
    counts: dict[str, Counter[str]] = {app: Counter() for app in APPS}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("name", "")
        app = "notebook" if "[notebook" in name else "lab"
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        counts[app][kind] += 1
        counts[app]["seconds"] += round(float(case.get("time", 0)))
        if kind == "failed":
            print(f"  failed: {case.get('classname')}::{name}")
    return counts


def main() -> None:
    """Install, run, and print one row for each kernel and application."""
    rows: list[tuple[str, ...]] = []
    for name, wanted in KERNELS.items():
        print(f"== ipykernel {name}", flush=True)
        python = installed(name, wanted)
        kernel, lab, notebook = subprocess.check_output([python, "-c", WHAT], text=True).split()
        report = FOLDER / f"{name}.xml"
        report.unlink(missing_ok=True)
        subprocess.run(
            [
                python,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/browser",
                f"--junitxml={report}",
                *sys.argv[1:],
            ],
            cwd=ROOT,
            check=False,
        )
        for app, found in counted(report).items():
            version = {"lab": lab, "notebook": notebook}[app]
            numbers = [str(found[kind]) for kind in ("passed", "skipped", "failed", "seconds")]
            rows.append((kernel, f"{APPS[app]} {version}", *numbers))
    head = ("ipykernel", "application", "passed", "skipped", "failed", "seconds")
    print()
    for row in (head, ("---",) * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    sys.exit(any(int(row[4]) or not int(row[2]) for row in rows))


if __name__ == "__main__":
    main()
