"""A proxy that loses replies, delays them or refuses connections, and a server whose answers a test chooses."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

#: The commands that call a script: as a function, or by its hash on a server without functions.
SCRIPT_CALLS = (b"FCALL", b"EVALSHA")
#: No test moves more than this in one piece, bytes.
_PIECE_BYTES = 1 << 20


class _Listener:
    """Accepts TCP connections on 127.0.0.1 and serves each from a thread."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        #: How many connections were made.
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        """Talks to one client until it is gone."""
        raise NotImplementedError

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._guarded, args=(client,), daemon=True).start()

    def _guarded(self, client: socket.socket) -> None:
        self._sockets.add(client)
        try:
            self.serve(client)
        except (OSError, ValueError):
            pass  # one of the ends is gone (ValueError: select meets one that `close` closed)
        finally:
            self._cut(client)

    def _cut(self, end: socket.socket) -> None:
        self._sockets.discard(end)
        with suppress(OSError):  # cut from the other side
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def cut_all(self) -> None:
        """Breaks all open connections."""
        for end in list(self._sockets):
            self._cut(end)

    def close(self) -> None:
        """Ends it: connections are refused from now on."""
        self._closed.set()
        with suppress(OSError):  # not all systems shut a listening socket down
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LossyProxy(_Listener):
    """Forwards to a server on a TCP port of this machine.

    Attributes:
        requests: how many pieces with one of `watched` in them came from clients.
        watched: a request is watched if it contains any of these bytes; only replies to watched requests are lost.
        lose_replies: how many of the next replies are lost: the request is executed, then the connection breaks.
        lose_requests: how many of the next requests are lost: the connection breaks before they arrive.
        swallow_replies: how many of the next replies are lost while the connection stays open.
        delay_s: how many seconds each reply to a watched request is late.
        refusing: whether connections are closed as soon as they are made.
    """

    def __init__(self, port: int, *watched: bytes) -> None:
        self._target = port
        self.watched = watched or SCRIPT_CALLS
        self.requests = 0
        self.lose_replies = 0
        self.lose_requests = 0
        self.swallow_replies = 0
        self.delay_s = 0.0
        self.refusing = False
        self._never = threading.Event()
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        if self.refusing:
            return
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            self._sockets.add(server)
            try:
                is_watched, is_answered = False, False
                while True:
                    ready = select.select([client, server], [], [])[0]
                    if client in ready:
                        if not (request := client.recv(_PIECE_BYTES)):
                            return
                        has_word = any(word in request for word in self.watched)
                        # A request may come in pieces, and only one piece has the word.
                        is_watched, is_answered = has_word or (is_watched and not is_answered), False
                        self.requests += has_word
                        if has_word and self.lose_requests:
                            self.lose_requests -= 1
                            return
                        server.sendall(request)
                    elif self._answer(server, client, is_watched):
                        is_answered = True
                    else:
                        return
            finally:
                self._sockets.discard(server)

    def _answer(self, server: socket.socket, client: socket.socket, is_watched: bool) -> bool:
        """Passes on the reply to one request. Returns False if the connection has to break."""
        reply = server.recv(_PIECE_BYTES)
        if not reply:
            return False
        if is_watched and self.lose_replies:
            self.lose_replies -= 1
            return False
        if is_watched and self.swallow_replies:
            self.swallow_replies -= 1
            return True
        if is_watched and self.delay_s:
            self._never.wait(self.delay_s)
        client.sendall(reply)
        return True


class ScriptedServer(_Listener):
    """Answers each command with what a function returns, in the protocol of Redis."""

    def __init__(self, answer: Callable[[list[bytes]], bytes]) -> None:
        self._answer = answer
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        while line := stream.readline():
            command: list[bytes] = []
            for _ in range(int(line[1:])):
                size = int(stream.readline()[1:])
                command.append(stream.read(size + 2)[:-2])
            client.sendall(self._answer(command))


def bulk(text: str) -> bytes:
    """A text as a reply."""
    data = text.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)
