"""The event log of a run: one entry for each call that changed something, read page by page.

The log is a stream of the last `events_maxlen` of these entries; docs/operations.md lists the kinds of transitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from broker.protocol import keys
from broker.protocol.parsing import text

#: Sends one plain command and returns its reply, as `Transport.command` does.
Send = Callable[..., Any]

#: Entries of one page.
PAGE: Final = 1000

#: The position before the oldest entry that is kept.
OLDEST: Final = "-"


@dataclass(frozen=True, slots=True)
class Event:
    """Transitions of one call.

    Args:
        id: of the stream entry; its first part is the server's clock in milliseconds.
        transitions: (kind, words) pairs in order; see docs/operations.md for the kinds.
    """

    id: str
    transitions: tuple[tuple[str, str], ...]

    @property
    def at_ms(self) -> int:
        """When the call was made, milliseconds of the server's clock."""
        return place(self.id)[0]


def place(event_id: str) -> tuple[int, int]:
    """An event's id as a pair in the order of the log: milliseconds, and a number within them."""
    at_ms, _, number = event_id.partition("-")
    return int(at_ms), int(number or 0)


def read(send: Send, run: str, after: str = OLDEST, count: int = PAGE, until: str = "+") -> list[Event]:
    """The first events after an id.

    Args:
        send: sends a command to the server.
        run: the run.
        after: an event's id, or `OLDEST`.
        count: most events wanted.
        until: the id of the last event wanted.
    """
    return _range(send, run, after if after == OLDEST else f"({after}", until, count)


def newest_id(send: Send, run: str) -> str:
    """The id of the newest event; `OLDEST` if there is no event."""
    return id_of_newest(send(*ask_newest(run)))


def ask_newest(run: str) -> tuple[str | int, ...]:
    """The command that asks for the newest event, for pipelines."""
    return ("XREVRANGE", keys.key(run, "events"), "+", "-", "COUNT", 1)


def id_of_newest(rows: list[Any]) -> str:
    """Reads the reply to `ask_newest`; `OLDEST`: there is no event."""
    return text(rows[0][0]) if rows else OLDEST


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events.

    Args:
        events: at least one.
        has_gap: whether events before these may have been trimmed unread.
    """

    events: list[Event]
    has_gap: bool


class Follower:
    """A position in the event log, moved on by reading pages.

    Args:
        send: sends a command to the server.
        run: the run.
        after: the position to begin at, an event's id or `OLDEST`.

    Attributes:
        position: the id of the last event that was read.
    """

    def __init__(self, send: Send, run: str, after: str = OLDEST) -> None:
        self._send = send
        self._run = run
        self._has_read = False
        self.position = after

    @classmethod
    def of_the_last(cls, send: Send, run: str, count: int) -> Follower:
        """A follower that begins so many events before the end."""
        rows = send("XREVRANGE", keys.key(run, "events"), "+", "-", "COUNT", count)
        return cls(send, run, text(rows[-1][0]) if len(rows) == count else OLDEST)

    def pass_over(self) -> None:
        """Goes to the end of the log; the events up to there are not read."""
        self.position = newest_id(self._send, self._run)

    def pages(self, until: str = "+", count: int = PAGE) -> Iterator[Page]:
        """The events since the last call, up to the id `until`, or to the newest event at some moment."""
        is_full = True
        while (
            is_full
        ):  # else the newest event was among them; a busy run has newer ones by now, and this would never end
            if not self._has_read:
                new, has_gap = read(self._send, self._run, self.position, count, until), False
                is_full = len(new) == count
            else:
                # The last event that was read is read again: if it is gone, events after it may be gone too.
                new = _range(self._send, self._run, self.position, until, count + 1)
                is_full = len(new) == count + 1
                has_gap = not new or new[0].id != self.position
                new = new if has_gap else new[1:]
            if new:
                self.position, self._has_read = new[-1].id, True
                yield Page(new, has_gap)


def _range(send: Send, run: str, first: str, last: str, count: int) -> list[Event]:
    return [_event(row) for row in send("XRANGE", keys.key(run, "events"), first, last, "COUNT", count)]


def _event(row: Any) -> Event:
    fields = list(map(text, row[1]))
    return Event(text(row[0]), tuple(zip(fields[::2], fields[1::2], strict=True)))
