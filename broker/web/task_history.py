"""What the event log still has of one task, and its payload in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.errors import BrokerError
from broker.inspection.events import OLDEST, PAGE
from broker.inspection.transitions import named
from broker.values.evaluation_payload import decode_payload
from broker.web.snapshot import transition_row

if TYPE_CHECKING:
    from broker.clients.operator import Operator

#: Most transitions of one task.
EVENTS: Final = 500
#: Characters of a payload that are shown.
_PAYLOAD_CHARS: Final = 4000


def history_of(operator: Operator, run: str, task: str) -> tuple[list[dict[str, Any]], bool]:
    """The transitions of a task that the log has, the newest last; whether these are all that it has of the task."""
    found: list[dict[str, Any]] = []
    after = OLDEST
    while page := operator.events(run, after, PAGE):
        after = page[-1].id
        for event in page:
            for place, (kind, words) in enumerate(event.transitions):
                if task not in words:
                    continue
                fields = named(kind, words.split())
                if task in (fields.get("task"), fields.get("attempt", "").partition("#")[0]):
                    found.append(transition_row(event.id, place, event.at_ms, kind, words))
        if len(page) < PAGE:
            break
    return found[-EVENTS:], len(found) <= EVENTS


def payload_in_words(stored: bytes | None) -> str | None:
    """A payload for people, cut."""
    if stored is None:
        return None
    try:
        shown = repr(decode_payload(stored)[0])
    except BrokerError as error:
        shown = f"{error}"
    return shown if len(shown) <= _PAYLOAD_CHARS else f"{shown[:_PAYLOAD_CHARS]} ..."
