"""A server of a language model that answers what the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What it answers if a test says nothing.
ANSWER = {
    "prompt_token_ids": [1, 2],
    "choices": [{"message": {"content": "4"}, "token_ids": [3], "finish_reason": "stop"}],
    "usage": {"total_tokens": 3},
}


@dataclass
class FakeModel:
    """A running server: its URL, the requests that it got, each with its path, and their headers in lower case."""

    endpoint: str
    requests: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def fake_model(answer: Callable[[Any], tuple[int, Any]] = lambda _: (200, ANSWER)) -> Generator[FakeModel]:
    """A server whose answers, status and JSON, are those of a function of the request."""
    model = FakeModel("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            model.requests.append((self.path, body))
            model.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, said = answer(body)
            sent = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(said, bytes) else "application/json")
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="fake-model", kwargs={"poll_interval": 0.02})
    thread.start()
    model.endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
