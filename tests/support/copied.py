"""Code that was copied from a page, run."""

import contextlib
import subprocess
from pathlib import Path
from typing import Any

from shell import run

from core.exporting.code import Code


def run_python(code: Code) -> dict[str, Any]:
    """The names that a script leaves, run as a notebook would run it."""
    names: dict[str, Any] = {}
    exec(compile(code.python, "copied", "exec"), names)
    return names


def run_commands(code: Code, folder: Path) -> str:
    """What the lines of a command print, each run in a folder with what a shell makes of it."""
    said = []
    with contextlib.chdir(folder):
        for arguments in as_a_shell_reads(code.command):
            assert arguments[:2] == ["-m", "core"]
            result = run(*arguments[2:])
            assert result.exit_code == 0, result.output
            said.append(result.output)
    return "".join(said)


def as_a_shell_reads(command: str) -> list[list[str]]:
    """The arguments that a shell gives to each `python` of a script."""
    stub = 'python() { printf "%s\\0" "$#" "$@"; }\n'
    done = subprocess.run(["sh", "-c", stub + command], capture_output=True, check=True)
    assert done.stderr == b""
    parts = iter(done.stdout.decode().split("\0")[:-1])
    return [[next(parts) for _ in range(int(count))] for count in parts]
