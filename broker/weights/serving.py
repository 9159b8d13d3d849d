"""Serves publications by HTTP from a thread, to workers that do not see the publisher's folder."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from broker.errors import BadArgument
from broker.weights.reference import MANIFEST, NAME, Manifest

#: How long a client may neither read nor write, seconds.
_SILENT_S = 60.0


class WeightsServer:
    """The files of a folder's publications, for clients that show the token.

    Args:
        folder: the publisher's folder.
        listen: `host:port`; port 0: any that is free.

    Raises:
        BadArgument: `listen` is no address.
        OSError: it cannot be listened on.
    """

    def __init__(self, folder: Path, listen: str) -> None:
        host, _, port = str(listen).rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise BadArgument(argument="listen", given=str(listen), expected="host:port, or None")
        host = host.removeprefix("[").removesuffix("]")
        self.token = secrets.token_urlsafe(24)
        self._server = _Server((host, int(port)), folder, self.token)
        name = socket.getfqdn() if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not listened on
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="broker-weights", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops; files that are being sent end in the middle."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that has stalled does not hold up the trainer

    def __init__(self, address: tuple[str, int], folder: Path, token: str) -> None:
        self.folder, self.token = folder, token
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is told to nobody: it asks again."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENT_S

    def do_GET(self) -> None:
        """Sends a file of a publication."""
        server = cast("_Server", self.server)
        shown = self.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {server.token}".encode()):
            self._answer(HTTPStatus.UNAUTHORIZED)
            return
        name, _, path = unquote(self.path).removeprefix("/").partition("/")
        if not NAME.fullmatch(name) or not self._is_of_publication(server.folder / name, path):
            self._answer(HTTPStatus.NOT_FOUND)
            return
        try:
            stream = (server.folder / name / path).open("rb")
        except OSError:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        with stream:
            self._answer(HTTPStatus.OK, stream.seek(0, 2))
            stream.seek(0)
            self.connection.sendfile(stream)

    @staticmethod
    def _is_of_publication(publication: Path, path: str) -> bool:
        if path == MANIFEST:
            return True
        with suppress(OSError, ValueError):
            manifest = Manifest.decode((publication / MANIFEST).read_bytes())
            return any(file.path == path for file in manifest.files)
        return False

    def _answer(self, status: HTTPStatus, size: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Logs nothing: a line for each file of each worker would hide the trainer's own."""
