"""What the documents tell people to type."""

import re
import shlex
from pathlib import Path

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"^(?:(?:\.venv/bin/)?python -m core|sentitrace) ")


def blocks_of(path: Path, *languages: str) -> list[str]:
    """The blocks of code of a document that are in one of these languages ("": none is named)."""
    text = path.read_text(encoding="utf-8")
    return [body for language, body in BLOCK.findall(text) if language in languages]


def commands_of(path: Path) -> list[list[str]]:
    """The command lines of SentiTrace that stand in a document, without the program itself."""
    text = path.read_text(encoding="utf-8")
    lines = [line for body in blocks_of(path, "") for line in body.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return [
        shlex.split(PROGRAM.sub("", line), comments=True) for line in lines if PROGRAM.match(line)
    ]
