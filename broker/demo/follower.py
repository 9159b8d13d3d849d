"""Reads the event stream of a run from its beginning, piece by piece, so that nothing is trimmed unseen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from broker.protocol import keys

if TYPE_CHECKING:
    from broker.connections import Transport

#: Entries of one read.
_PAGE: Final = 1000


class Follower:
    """A position in the event stream.

    Args:
        transport: the server; used by this object alone or from one thread.
        run: the run's name.

    Attributes:
        seen: entries read so far.
    """

    def __init__(self, transport: Transport, run: str) -> None:
        self._transport = transport
        self._stream = keys.key(run, "events")
        self._position = "-"
        self.seen = 0

    def read(self) -> Iterator[tuple[str, list[str]]]:
        """The events since the last call, oldest first: kind and words. Raises as the transport does."""
        while True:
            entries: list[Any] = self._transport.command("XRANGE", self._stream, self._position, "+", "COUNT", _PAGE)
            for entry_id, fields in entries:
                # An entry holds all events of one call: the same kind may stand in it several times.
                for i in range(0, len(fields), 2):
                    yield fields[i].decode(), fields[i + 1].decode().split()
                self._position = f"({entry_id.decode()}"
                self.seen += 1
            if len(entries) < _PAGE:
                return

    def missed(self) -> int:
        """Entries that were added and trimmed before they were read; 0 also where the server does not count them."""
        if not self._transport.command("EXISTS", self._stream):
            return 0
        info: list[Any] = self._transport.command("XINFO", "STREAM", self._stream)
        facts = {info[i]: info[i + 1] for i in range(0, len(info), 2)}
        added = facts.get(b"entries-added")
        return 0 if added is None else max(0, int(added) - self.seen)
