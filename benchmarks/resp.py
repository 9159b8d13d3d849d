"""A raw connection: a socket and hiredis. The reference and the limits are measured through it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import hiredis

Word = str | bytes | int
_READ_BYTES = 1024 * 1024


class RawClient:
    """One TCP connection to the benchmark's server.

    Args:
        url: `redis://host:port`.
    """

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        assert place.hostname, url
        assert place.port, url
        self._socket = socket.create_connection((place.hostname, place.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(_READ_BYTES)

    def send(self, data: bytes) -> None:
        """Sends packed commands."""
        self._socket.sendall(data)

    def receive(self, count: int) -> list[Any]:
        """Reads `count` replies. Raises the first error among them after all were read."""
        replies: list[Any] = []
        reader, buffer = self._reader, self._buffer
        while len(replies) < count:
            reply = reader.gets()
            if reply is False:
                size = self._socket.recv_into(buffer)
                if not size:
                    raise ConnectionError("the benchmark's server closed the connection")
                reader.feed(buffer, 0, size)
                continue
            replies.append(reply)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def call(self, *words: Word) -> Any:
        """Sends one command, in one round trip."""
        self._socket.sendall(hiredis.pack_command(words))
        return self.receive(1)[0]

    def pipeline(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Sends several commands in one round trip."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(words)) for words in commands))
        return self.receive(len(commands))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def info(client: RawClient, section: str) -> dict[str, str]:
    """One section of INFO, by name."""
    lines = client.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
