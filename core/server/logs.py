"""What is this server doing? Structured logs without anybody's tweet, and counts.

Every piece of background work is a request with an id; `core.server.job_queue` logs its beginning
and its end. SENTITRACE_LOG=json writes one JSON object a line. What people typed is left out, and
so are the words of exceptions, which may quote it, unless SENTITRACE_LOG_TEXTS=1 asks for them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from ..distribution import PACKAGE

FORMAT = "SENTITRACE_LOG"
TEXTS = "SENTITRACE_LOG_TEXTS"
LOGGER = PACKAGE

_counts: Counter[str] = Counter()
_counting = threading.Lock()


def set_up(stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Send the logs of `core` to standard error, or to a stream; once, or again differently."""
    said = os.environ if environment is None else environment
    texts = said.get(TEXTS, "") not in ("", "0")
    formatter = Json(texts) if said.get(FORMAT) == "json" else Plain(texts)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    handler.name = LOGGER
    logger = logging.getLogger(LOGGER)
    for old in [old for old in logger.handlers if old.name == LOGGER]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def fields(*, texts: Mapping[str, str] | None = None, **values: Any) -> dict[str, Any]:
    """What belongs to a line, for the argument `extra` of a logger's methods.

    Args:
        texts: what people typed; written only where that was asked for.
        values: numbers and names.
    """
    return {"fields": values, "texts": dict(texts or {})}


def count(name: str, times: int = 1) -> None:
    """Count that something happened, since the process began."""
    with _counting:
        _counts[name] += times


def counts() -> dict[str, int]:
    """Everything counted, by name."""
    with _counting:
        return dict(sorted(_counts.items()))


class _Formatter(logging.Formatter):
    """What both formatters share: which fields there are, and how much of an exception is told."""

    def __init__(self, texts: bool) -> None:
        super().__init__()
        self.texts = texts

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        found = dict(getattr(record, "fields", {}))
        return found | getattr(record, "texts", {}) if self.texts else found

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name is the library's
        kind, error, where = ei
        if self.texts:
            return super().formatException(ei)
        chain = [line.rstrip() for line in traceback.format_tb(where)]
        cause = error.__cause__ or error.__context__
        after = f" after {type(cause).__qualname__}" if cause is not None else ""
        return "\n".join([*chain, f"{kind.__module__}.{kind.__qualname__}{after}"])


class Json(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["raised"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class Plain(_Formatter):
    """A line to be read by a person; line ends within it are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record, and the lines of its exception."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        said = " ".join(f"{name}={value!r}" for name, value in self.fields(record).items())
        line = f"{at} {record.levelname.lower()} {record.getMessage()!s} {said}".rstrip()
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
