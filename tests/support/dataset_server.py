"""A Hugging Face hub in miniature for data sets: files of a folder, as `datasets` asks for them."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMITS = {"main": "1" * 40, "refs/convert/parquet": "2" * 40}
NAMES = {commit: revision for revision, commit in COMMITS.items()}


@dataclass
class DatasetHub:
    """What is served: (hub id, revision) -> folder. ``hang_at``: part of a path never answered."""

    folders: dict[tuple[str, str], Path]
    hang_at: str = ""
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def folder(self, hub_id: str, revision: str) -> Path | None:
        return self.folders.get((hub_id, NAMES.get(revision, revision)))


def _entry(folder: Path, path: Path) -> dict[str, object]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    content = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": name, "oid": oid, "size": len(content)}


@contextmanager
def serve_datasets(folders: dict[tuple[str, str], Path]) -> Iterator[DatasetHub]:
    """Serve ``folders`` on this machine until the block ends."""
    hub = DatasetHub(folders)
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0].replace("%2F", "/")
            hub.asked.append(f"{self.command} {path}")
            if hub.hang_at and hub.hang_at in path:
                closing.wait(60)
                self.close_connection = True
                return
            revision = "(?P<revision>main|refs/convert/parquet|[0-9a-f]{40})"
            routes = {
                rf"/api/datasets/(?P<id>[\w-]+/[\w-]+)(/revision/{revision})?": self.listing,
                rf"/api/datasets/(?P<id>[\w-]+/[\w-]+)/tree/{revision}(/(?P<path>.+))?": self.tree,
                rf"/api/datasets/(?P<id>[\w-]+/[\w-]+)/paths-info/{revision}": self.paths,
                rf"/datasets/(?P<id>[\w-]+/[\w-]+)/resolve/{revision}/(?P<path>.+)": self.file,
            }
            for route, handle in routes.items():
                found = re.fullmatch(route, path)
                if found:
                    asked = found.groupdict()
                    asked["revision"] = asked["revision"] or "main"
                    folder = hub.folder(asked["id"], asked["revision"])
                    if folder is None:
                        self.send(b"", 404, error="RepoNotFound")
                    else:
                        handle(folder, asked)
                    return
            self.send(b"", 404, error="RepoNotFound")

        def listing(self, folder: Path, asked: dict[str, str]) -> None:
            files = [_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
            siblings = [{"rfilename": file["path"]} for file in files]
            commit = COMMITS.get(asked["revision"], asked["revision"])
            self.json({"id": asked["id"], "sha": commit, "siblings": siblings})

        def tree(self, folder: Path, asked: dict[str, str]) -> None:
            start = folder / (asked["path"] or "")
            if not start.is_dir():
                self.send(b"", 404, error="EntryNotFound")
                return
            deep = "recursive=True" in self.path or "recursive=true" in self.path
            found = start.rglob("*") if deep else start.iterdir()
            self.json([_entry(folder, path) for path in sorted(found)])

        def paths(self, folder: Path, asked: dict[str, str]) -> None:
            from urllib.parse import parse_qs

            told = self.body.decode()
            wanted = json.loads(told)["paths"] if told[:1] == "{" else parse_qs(told)["paths"]
            present = [folder / path for path in wanted if (folder / path).exists()]
            self.json([_entry(folder, path) for path in present])

        def file(self, folder: Path, asked: dict[str, str]) -> None:
            path = folder / asked["path"]
            if not path.is_file():
                self.send(b"", 404, error="EntryNotFound")
                return
            content = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted:
                end = int(wanted[2]) + 1 if wanted[2] else len(content)
                self.send(content[int(wanted[1]) : end], 206, commit=asked["revision"])
            else:
                self.send(content, 200, commit=asked["revision"])

        def json(self, value: object) -> None:
            self.send(json.dumps(value).encode(), 200)

        def send(self, body: bytes, status: int, *, error: str = "", commit: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            if commit:
                self.send_header("X-Repo-Commit", COMMITS.get(commit, commit))
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
