"""A Hugging Face hub in miniature: it serves folders as huggingface_hub asks for models."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PART = 4096


@dataclass
class Hub:
    """What is served, how it misbehaves, and what it was asked for."""

    models: dict[str, Path]
    cut_after: dict[str, int] = field(default_factory=dict)  # file name -> bytes sent of it
    altered: set[str] = field(default_factory=set)  # file names sent with one bit flipped
    longer: set[str] = field(default_factory=set)  # file names sent with more bytes than listed
    refused: dict[str, int] = field(default_factory=dict)  # name, or "listing" -> status
    seconds_to_answer: float = 0.0
    seconds_a_part: float = 0.0  # files come in drops of `PART` bytes, this far apart
    ranges: bool = True  # whether a file can be gone on with
    sent: dict[str, int] = field(default_factory=dict)  # file name -> bytes sent of it
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)  # that came with what was asked
    address: str = ""


def _checksums(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    listed: dict[str, object] = {
        "rfilename": path.name,
        "size": len(content),
        "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if path.suffix in (".safetensors", ".bin"):
        digest = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return listed


@contextmanager
def serve(models: dict[str, Path]) -> Iterator[Hub]:
    """Serve ``models`` (hub id -> folder) on this machine until the block ends."""
    hub = Hub(models)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(send_body=False)

        def do_GET(self) -> None:
            self.answer(send_body=True)

        def answer(self, *, send_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            # Not time.sleep, which a test may have made quick.
            threading.Event().wait(hub.seconds_to_answer)
            for hub_id, folder in hub.models.items():
                name = "listing" if path.startswith("/api/") else path.rpartition("/")[2]
                if hub_id in path and name in hub.refused:
                    status = hub.refused[name]
                    error = "GatedRepo" if status in (401, 403) else ""
                    self.send(b"", "nothing", send_body=False, status=status, error=error)
                    return
                if path == f"/api/models/{hub_id}/revision/main":
                    files = [_checksums(file) for file in sorted(folder.iterdir())]
                    listing = {"id": hub_id, "sha": COMMIT, "siblings": files}
                    self.send(json.dumps(listing).encode(), "listing", send_body=send_body)
                    return
                start = f"/{hub_id}/resolve/{COMMIT}/"
                if path.startswith(start) and (folder / path.removeprefix(start)).is_file():
                    name = path.removeprefix(start)
                    self.send((folder / name).read_bytes(), name, send_body=send_body)
                    return
            self.send(b"", "nothing", send_body=False, status=404, error="RepoNotFound")

        def send(
            self, body: bytes, name: str, *, send_body: bool, status: int = 200, error: str = ""
        ) -> None:
            whole = body
            if name in hub.longer:
                body = body + b"more"
            if name in hub.altered:
                body = body[:-1] + bytes([body[-1] ^ 1])
            start = 0
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes=") and hub.ranges and status == 200:
                start, status = int(wanted[6:].partition("-")[0]), 206
                body = body[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            if name in hub.cut_after:
                self.send_header("Connection", "close")
            self.end_headers()
            if not send_body:
                return
            if name in hub.cut_after:
                self.close_connection = True
                body = body[: max(hub.cut_after[name] - start, 0)]
            size = PART if hub.seconds_a_part else max(len(body), 1)
            for place in range(0, len(body), size):
                part = body[place : place + size]
                try:
                    self.wfile.write(part)
                    self.wfile.flush()
                except OSError:  # the other side has gone
                    self.close_connection = True
                    return
                hub.sent[name] = hub.sent.get(name, 0) + len(part)
                threading.Event().wait(hub.seconds_a_part)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
