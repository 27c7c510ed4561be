"""Find the Chromium that the browser tests drive; run as a program, get one where there is none.

`make test` runs it before anything long is installed, so it needs no package but Playwright, and
that only where no browser is installed. Where none can be had the browser tests are left out, and
the last line of the tests says how many. Two variables change that: SENTITRACE_NO_BROWSER=1 leaves
them out in any case, SENTITRACE_NEEDS_BROWSER=1 (set by .ci/run) fails without a browser.
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
PACKAGE_MANAGERS = {
    "apt-get": (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "chromium")),
    "dnf": (("install", "-y", "-q", "chromium"),),
    "zypper": (("--non-interactive", "--quiet", "install", "chromium"),),
    "pacman": (("-Sy", "--noconfirm", "chromium"),),
    "apk": (("add", "--quiet", "chromium"),),
}
"""Each system's own way to install the package, in the calls that it takes."""

ADVICE = (
    "install Chromium (on Debian: sudo apt install chromium), or set SENTITRACE_CHROMIUM to the "
    "path of one that starts, and run the tests again"
)


def is_left_out() -> bool:
    """Whether a person wants no browser tests."""
    return _is_on("SENTITRACE_NO_BROWSER")


def is_needed() -> bool:
    """Whether tests without a browser are a failure."""
    return _is_on("SENTITRACE_NEEDS_BROWSER")


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


def get() -> str | None:
    """Find a Chromium; where there is none, fetch Playwright's own, or install the system's."""
    if find() is None and "SENTITRACE_CHROMIUM" not in os.environ:
        print("No Chromium was found; fetching Playwright's own ...", flush=True)
        _call(sys.executable, "-m", "playwright", "install", "chromium")
        if Path(_playwrights_own()).is_file() and not _starts(_playwrights_own()):
            _as_root(sys.executable, "-m", "playwright", "install-deps", "chromium")
        find.cache_clear()
    if find() is None and "SENTITRACE_CHROMIUM" not in os.environ:
        manager = next((name for name in PACKAGE_MANAGERS if shutil.which(name)), None)
        if manager is not None:
            print(f"It did not work out; installing the system's by {manager} ...", flush=True)
            for words in PACKAGE_MANAGERS[manager]:
                _as_root(manager, *words)
        find.cache_clear()
    return find()


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _starts(path: str) -> bool:
    if not Path(path).is_file():
        return False
    try:
        asked = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _playwrights_own() -> str:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def _as_root(*command: str) -> None:
    """Run as root, or by sudo where that asks for no password; otherwise not at all."""
    if os.name != "posix":
        return
    if os.geteuid() == 0:
        _call(*command)
    elif shutil.which("sudo"):
        _call("sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", *command)


def _call(*command: str) -> None:
    # Complaints are pages long; what counts is whether there is a browser afterwards.
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def main() -> int:
    if is_left_out():
        print("SENTITRACE_NO_BROWSER is set: the browser tests are left out.")
    elif get() is None:
        needed = is_needed()
        rest = "" if needed else " The other tests run."
        print(
            f"No Chromium that starts can be had here: {ADVICE}.{rest}", file=sys.stderr, flush=True
        )
        return int(needed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
