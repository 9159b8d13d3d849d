"""A TCP proxy that loses script calls or their replies, whatever pieces they come in."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from tests.lossy_proxy import SCRIPT_CALLS

_PIECE_BYTES = 1 << 16


class DuplexProxy:
    """Forwards to a server on a port of this machine, in both directions at once.

    Attributes:
        lose_replies: so many script calls to come are executed, then the connection breaks before the reply.
        lose_requests: so many script calls to come never arrive: the connection breaks before.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._socket.getsockname()[1]}"
        self.lose_replies = 0
        self.lose_requests = 0
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            losing = threading.Event()
            self._ends += [client, server]
            for source, target, is_request in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, target, is_request, losing))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, is_request: bool, losing: threading.Event) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                is_call = is_request and any(word in piece for word in SCRIPT_CALLS)
                if is_call and self.lose_requests:
                    self.lose_requests -= 1
                    break
                if is_call and self.lose_replies:
                    self.lose_replies -= 1
                    losing.set()
                if not is_request and losing.is_set():
                    break
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):  # the other direction was first
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._threads[0].join()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()
