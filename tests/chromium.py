"""Find the Chromium that the browser tests drive; run as a program, fetch one where there is none.

`make test` runs it, so that missing Chromium is told in one line before the tests, and never skips
a test silently. SENTITRACE_NO_BROWSER=1 leaves the browser tests out.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_PLACES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ADVICE = (
    "The browser tests need Chromium, and none that starts was found: install it (on Debian: "
    "sudo apt install chromium), or set SENTITRACE_CHROMIUM to its path, "
    "or leave these tests out with SENTITRACE_NO_BROWSER=1."
)


def is_left_out() -> bool:
    return os.environ.get("SENTITRACE_NO_BROWSER", "") not in ("", "0")


@functools.cache
def find() -> str | None:
    """Return the path of the first Chromium or Chrome that starts, or None."""
    chosen = os.environ.get("SENTITRACE_CHROMIUM")
    if chosen:
        return chosen if _starts(chosen) else None
    installed = [path for name in NAMES if (path := shutil.which(name))]
    for path in (*installed, *MAC_PLACES):
        if _starts(path):
            return path
    fetched = _playwrights_own()
    return fetched if _starts(fetched) else None


def _starts(path: str) -> bool:
    if not Path(path).is_file():
        return False
    asked = subprocess.run(
        [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    return asked.returncode == 0


def _playwrights_own() -> str:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def main() -> int:
    if is_left_out():
        print("SENTITRACE_NO_BROWSER is set: THE BROWSER TESTS ARE LEFT OUT.")
        return 0
    if find() is None and "SENTITRACE_CHROMIUM" not in os.environ:
        print("No Chromium was found; fetching Playwright's own ...", flush=True)
        # Its complaints are pages long; the advice below says all there is to do.
        subprocess.run(
            [sys.executable, "-m", "playwright", "install", "chromium"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        find.cache_clear()
    if find() is None:
        print(ADVICE, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
