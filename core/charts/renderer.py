"""How is a figure drawn so that a fault of the drawing library does not end this program?

vl-convert is native code. Where it panics it aborts the whole process, and while it draws it holds
Python's lock, so that all other threads of a server stand still. It therefore draws in a process of
its own. That one is started once and kept, since a library that has drawn before draws ten times
sooner; it is replaced when it dies, and it ends with the process that started it.

This module is both sides: imported, it sends; run as a script, it is the process that draws. As a
script it imports nothing else of `core`, so that the process is there in a fraction of a second,
with nothing of torch or Streamlit in it. Both sides speak over the process's standard streams: a
line of JSON that says what follows and how long it is, and then that.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

Wanted = Literal["svg", "png", "pdf", "html", "width", "png of svg"]
"""What is made of a Vega-Lite specification; "width" in pixels, "png of svg" of an SVG instead."""

_PLANES = "".join(
    chr(plane + last) for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)
)
_UNDRAWABLE = re.compile(
    f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_PLANES}]"
)

LIMIT = 120.0  # seconds for one figure; a hundred times what one of 30,000 cells takes
GRACE = 10  # seconds more, after which the process ends by itself

log = logging.getLogger(__name__)


def legible(text: str) -> str:
    """The text with names, such as <U+0001>, for what an XML file cannot hold or should not.

    These are control characters but tabs and line breaks, surrogates, and code points that are no
    characters (XML 1.0, section 2.2). vl-convert measures text as SVG and aborts on the former.
    """
    return _UNDRAWABLE.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


class Renderer:
    """A process that draws, one figure at a time; any thread may ask.

    Args:
        fonts: folders of fonts that it shall know besides the system's.
        limit: seconds that one figure may take.
    """

    def __init__(self, fonts: Iterable[Path] = (), *, limit: float = LIMIT) -> None:
        self._fonts = [str(folder) for folder in fonts]
        self._limit = limit
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._said: IO[bytes] | None = None

    def start(self) -> None:
        """Have the process ready when it is needed; does not wait for it.

        Raises:
            NotDrawn: the system starts no process.
        """
        # Whoever is drawing has started it.
        if self._lock.acquire(blocking=False):
            try:
                self._running()
            finally:
                self._lock.release()

    def draw(self, wanted: Wanted, content: str, **options: float | bool | str) -> bytes:
        """What the process makes of a specification.

        Args:
            content: JSON of Vega-Lite, or an SVG.
            options: of vl-convert's function.

        Raises:
            ValueError: vl-convert refuses the content, in its words.
            NotDrawn: it broke off or took too long; the next figure gets a new process.
        """
        from ..errors import NotDrawn

        with self._lock:
            process = self._running()
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self._limit, end)
            timer.daemon = True
            timer.start()
            whole = False
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                _send(process.stdin, content.encode(), wanted=wanted, options=options)
                header, made = _receive(process.stdout)
                whole = True
            except (OSError, EOFError) as error:
                raise NotDrawn(self._reason(process, late.is_set())) from error
            finally:
                timer.cancel()
                # Also after Ctrl-C: the answer that is under way would be taken for the next one.
                if not whole:
                    self.stop()
        if header["error"] is not None:
            raise ValueError(header["error"])
        return made

    def stop(self) -> None:
        """End the process; the next figure gets a new one."""
        process, self._process = self._process, None
        # A fork of this program does not end the process of the program that it was forked from.
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, self._said):
            if stream is not None:
                with suppress(OSError):  # what was still to be sent to it
                    stream.close()

    def _running(self) -> subprocess.Popen[bytes]:
        from ..errors import NotDrawn

        here = self._owner == os.getpid()
        if here and self._process is not None and self._process.poll() is None:
            assert self._said is not None
            self._said.seek(0)
            self._said.truncate()
            return self._process
        self.stop()
        if not here:
            self._owner = os.getpid()
            atexit.register(self.stop)
        try:
            # What the library says on its way out, for the log.
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
            self._process = subprocess.Popen(
                # -P: the folder of this file, with its modules' plain names, is not searched.
                [sys.executable, "-P", str(Path(__file__)), str(self._limit), *self._fonts],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
        except OSError as error:
            raise NotDrawn(
                f"The figure cannot be drawn: no process for it can be started ({error.strerror}); "
                "close other programs and try again."
            ) from error
        return self._process

    def _reason(self, process: subprocess.Popen[bytes], late: bool) -> str:
        """Why there is no figure; the log has where the library broke off."""
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it has closed its streams and goes on
            process.kill()
            code = process.wait()
        if late:
            log.error("a figure was not drawn within %g seconds", self._limit)
            return (
                f"The figure was not drawn within {self._limit:g} seconds; show less in it, or "
                "save it as Vega-Lite (.json)."
            )
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        assert self._said is not None
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        # Other lines may quote what somebody typed.
        places = [line for line in lines if "panicked at" in line or line.startswith("  File ")]
        log.error("the drawing process broke off (%s): %s", how, " / ".join(places) or "no reason")
        return (
            f"The figure cannot be drawn: the drawing library broke off ({how}). Other figures are "
            "not affected; save this one as Vega-Lite (.json), or change what it shows."
        )


# --- both sides ----------------------------------------------------------------------------------


def _send(stream: IO[bytes], content: bytes, **header: Any) -> None:
    stream.write(json.dumps({**header, "bytes": len(content)}).encode() + b"\n")
    stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """A header and its content.

    Raises:
        EOFError: the other side has ended.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    content = stream.read(header["bytes"])
    if len(content) < header["bytes"]:
        raise EOFError
    return header, content


# --- the process that draws ----------------------------------------------------------------------

WARM_UP = '{"data": {"values": [{}]}, "mark": "text", "encoding": {"text": {"value": "a"}}}'


def _serve(limit: float, fonts: Iterable[str]) -> None:
    """Draw what is asked for on standard input until that ends."""
    import vl_convert

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that the library prints gets among the answers
    # Ctrl-C on a terminal reaches all its processes; this one ends with the other.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for folder in fonts:
        vl_convert.register_font_directory(folder)
    _made("svg", WARM_UP, {})
    while True:
        try:
            header, content = _receive(requests)
        except EOFError:
            return
        if hasattr(signal, "alarm"):
            # The other side keeps the limit; this is for when it has been killed meanwhile.
            signal.alarm(int(limit) + GRACE)
        error, made = None, b""
        try:
            made = _made(header["wanted"], content.decode(), header["options"])
        except ValueError as refused:
            error = str(refused)
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        _send(answers, made, error=error)


def _made(wanted: Wanted, content: str, options: dict[str, Any]) -> bytes:
    import vl_convert

    if wanted == "html":
        return vl_convert.vegalite_to_html(content, **options).encode()
    if wanted == "png of svg":
        return vl_convert.svg_to_png(content, **options)
    inside: dict[str, Any] = {"allowed_base_urls": [], **options}  # all data are in it
    if wanted == "png":
        return vl_convert.vegalite_to_png(content, **inside)
    if wanted == "pdf":
        return vl_convert.vegalite_to_pdf(content, **inside)
    if wanted == "svg":
        return vl_convert.vegalite_to_svg(content, **inside).encode()
    scenegraph: Any = vl_convert.vegalite_to_scenegraph(content, **inside)
    return repr(float(scenegraph["width"])).encode()


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the other side has ended
        _serve(float(sys.argv[1]), sys.argv[2:])
