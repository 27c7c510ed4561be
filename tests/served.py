"""The dashboard as people meet it: a Streamlit server, and a Chromium that looks at it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
START = 120.0  # seconds that the server may take to answer
SHARED = ("models", "datasets", "probes")


def borrowed_home(prepared: Path, folder: Path) -> Path:
    """A cache folder that shares what set-up prepared, and keeps no results of its own yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (prepared / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(prepared / name, target_is_directory=True)
    return folder


@contextmanager
def serve(home: Path) -> Iterator[str]:
    """Serve the dashboard with this cache folder; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = {
        "server.headless": "true",
        "server.address": "127.0.0.1",
        "server.port": str(port),
    }
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamlit", "run", "app.py"),
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        cwd=ROOT,
        env={**os.environ, "SENTITRACE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
    )
    try:
        _await(address, server)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextmanager
def browse(chromium: str) -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_dashboard(browser: Browser, address: str, **context: object) -> Page:
    """A new visitor's first look; ready to be used."""
    page = browser.new_context(**context).new_page()
    page.goto(address)
    page.get_by_role("button", name="Run trace").wait_for(timeout=START * 1000)
    return page


def _await(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                raise RuntimeError(f"The server ended with code {server.returncode}.") from None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
