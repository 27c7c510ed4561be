"""What do the tests do where there is no browser, and what is tried to get one?"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

BROWSER_TEST = (
    "tests/system/test_entrance.py::test_a_first_visitor_may_click_before_the_page_is_whole"
)


def run_tests(**variables: str) -> subprocess.CompletedProcess[str]:
    """One browser test and another one, where the browser that is named does not start."""
    environment = {key: value for key, value in os.environ.items() if "SENTITRACE" not in key}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", BROWSER_TEST),
            "tests/system/test_serving.py",
        ],
        cwd=ROOT,
        env={**environment, "SENTITRACE_CHROMIUM": "/nowhere/chromium", **variables},
        capture_output=True,
        text=True,
    )


def test_without_a_browser_the_rest_passes_and_the_last_line_says_what_was_left_out():
    done = run_tests()
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("1 browser test was left out")
    assert "apt install chromium" in last


def test_where_a_browser_is_needed_its_absence_is_a_failure():
    done = run_tests(SENTITRACE_NEEDS_BROWSER="1")
    assert done.returncode == 1
    assert "No Chromium that starts was found" in done.stdout


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("package", ["works", "fails"])
def test_the_systems_package_is_tried_where_no_download_answers(tmp_path, package):
    # A package manager of ours: what it installs is a browser that tells its version.
    installs = [
        f"echo \"$*\" >> '{tmp_path}/asked'",
        f"case $* in *chromium) cp '{tmp_path}/browser' '{tmp_path}/bin/chromium' ;; esac",
    ]
    (tmp_path / "bin").mkdir()
    script(tmp_path / "browser", "echo Chromium 1")
    script(tmp_path / "bin" / "apt-get", *(installs if package == "works" else ["exit 1"]))
    script(tmp_path / "bin" / "sudo", 'test "$1" = -n && shift && exec "$@"')
    for name in ("sh", "env", "cp"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/chromium.py")],
        env={
            "PATH": str(tmp_path / "bin"),
            "HOME": str(tmp_path),
            "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "none"),
            "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert ("can be had here" in done.stderr) == (package == "fails")
    if package == "works":
        assert (tmp_path / "asked").read_text().splitlines() == [
            "update -qq",
            "install -y -qq --no-install-recommends chromium",
        ]
