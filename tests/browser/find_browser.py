"""Have a browser for the tests in this folder: one that is there, else one from Debian's archive, else Playwright's.

Runs in: `make test`, before the tests. Ends with a sentence that says what to install when all of that fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import sync_playwright

from support.jupyter import NO_BROWSER, find_browser


def main() -> None:
    """Find, or install and find again."""
    with sync_playwright() as playwright:
        if find_browser(playwright):
            return
        ways = []
        if os.geteuid() == 0 and shutil.which("apt-get"):
            ways.append("apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium")
        ways.append(f"{sys.executable} -m playwright install chromium")
        for way in ways:
            print(f"no browser yet: {way}", flush=True)
            subprocess.run(way, shell=True, stdout=subprocess.DEVNULL)
            if find_browser(playwright):
                return
        sys.exit(NO_BROWSER)


if __name__ == "__main__":
    main()
