"""Servers for the real `wandb` package: one never answers, one gets no packet, one takes rows or refuses them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["takes all", "refuses rows", "falls silent"]


class Silent:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self._socket.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        """Go away."""
        for one in (self._socket, *self.connections):
            one.close()


@contextmanager
def silent() -> Iterator[Silent]:
    """A server that accepts and never answers."""
    server = Silent()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def dropping() -> Iterator[str]:
    """The address of a server that no packet reaches: its queue is full, and Linux drops what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting = [socket.socket() for _ in range(8)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


class WandbServer(ThreadingHTTPServer):
    """As much of W&B's server as its client needs to begin a run and to send rows."""

    daemon_threads = True

    def __init__(self, manner: Manner) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.manner = manner
        self.rows: list[str] = []
        self.begun = threading.Event()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the answer to a request."""
        if path == "/graphql":
            return 200, {"data": self._answer_query(json.loads(body))}
        if not path.endswith("/file_stream"):
            return 200, {}
        if self.manner == "refuses rows":
            return 404, {}
        files = json.loads(body).get("files") or {}
        self.rows += files.get("wandb-history.jsonl", {}).get("content", [])
        return 200, {"limits": {}}

    def _answer_query(self, query: dict[str, Any]) -> dict[str, Any]:
        text, values = query["query"], query.get("variables") or {}
        if "upsertBucket" in text:
            project = {"id": "p", "name": "hark", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": values.get("name"), "displayName": "x", "description": "", "config": "{}"}
            bucket |= {"sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in text:
            files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in values["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "viewer" in text:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        """Answer, or fall silent once a run has begun."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.manner == "falls silent" and self.server.begun.is_set():
            threading.Event().wait()
        status, answer = self.server.answer(self.path, body)
        if b"upsertBucket" in body:
            self.server.begun.set()
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def wandb_server(manner: Manner) -> Iterator[WandbServer]:
    """A server that begins runs, and then takes rows, refuses them or falls silent."""
    server = WandbServer(manner)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
