"""The dashboard as people meet it: a Streamlit server, and a Chromium that looks at it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paths import ROOT
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
START = 600.0  # seconds that the server may take to answer
SHARED = ("models", "datasets", "probes")


def borrowed_home(prepared: Path, folder: Path, shared: Sequence[str] = SHARED) -> Path:
    """A cache folder that shares what set-up prepared, and keeps no results of its own yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in shared:
        (prepared / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(prepared / name, target_is_directory=True)
    return folder


@contextmanager
def serve(
    home: Path, program: Sequence[str | Path] | str = "app.py", *, cwd: Path = ROOT
) -> Iterator[str]:
    """Serve the dashboard with this cache folder, or another script; yields its address.

    Args:
        program: a script of Streamlit's, or a command line that takes Streamlit's options.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = {"server.headless": "true", "server.address": "127.0.0.1", "server.port": str(port)}
    script = (sys.executable, "-m", "streamlit", "run", str(program))
    command = script if isinstance(program, str) else program
    server = subprocess.Popen(
        [
            *command,
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        cwd=cwd,
        env={**os.environ, "SENTITRACE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
    )
    try:
        _await(address, server)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
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
