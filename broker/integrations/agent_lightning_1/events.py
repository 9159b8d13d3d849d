"""The events of attempts: what agents report and what the proxy saw, kept for each attempt apart."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from broker.integrations.agent_lightning_1 import names
from broker.integrations.agent_lightning_1.messages import EventCreate, EventsQuery
from broker.integrations.agent_lightning_1.names import Name
from broker.integrations.agent_lightning_1.rollouts import Refused, not_found
from broker.integrations.agent_lightning_1.storage import Storage
from broker.integrations.agent_lightning_1.triplets import (
    Event,
    superseded_routes,
    triplets,
    without_routed_experts,
)
from broker.protocol.task_row import TaskRow

_log = logging.getLogger(__name__)


class Events:
    """The events of one run.

    Args:
        storage: the run.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def admit(self, shown: str, attempt: str, kind: str) -> tuple[Name, str]:
        """The attempt that a URL names, if something may be added to it.

        Args:
            shown: the id of the rollout in the URL.
            attempt: the name of the attempt in the URL.
            kind: what it is, for the count of what is refused.

        Returns:
            The attempt's name, and its id in the broker: empty, if the rollout was not handed out yet.

        Raises:
            Refused: there is no such rollout, or the attempt is over or none of it.
        """
        name = names.parsed(shown, attempt)
        rollout = names.parsed(shown) if name is None else name
        if rollout is None or not names.may_be_created(rollout.rollout):
            raise not_found(shown)
        row, record = await self._storage.row_and_record(rollout.rollout)
        if record is None or row is None:
            raise not_found(shown)
        open_attempt = None if name is None else _open_attempt(row, name.attempt or names.FIRST, attempt)
        if name is None or open_attempt is None:
            await self._storage.refuse(kind)
            _log.warning("late: one of %s for attempt %s of rollout %s was refused", kind, attempt, shown)
            raise Refused(409, f"Rollout {shown}: attempt {attempt} is over, or none of it")
        return name, open_attempt

    async def add(self, shown: str, attempt: str, event: EventCreate, kind: str = "events") -> bytes:
        """Adds an event to an attempt. Returns it in JSON. Raises Refused as `admit`."""
        name, heard = await self.admit(shown, attempt, kind)
        at = name.attempt or names.FIRST
        if event.event_type == "model_request" and event.data.get("routed_experts") is not None:
            await self._drop_routes(name.rollout, at, event.data)
        now = time.time()
        body = json.dumps(
            {
                "event_type": event.event_type,
                "rollout_id": name.rollout,
                "attempt_id": at,
                "timestamp": now,
                "data": event.data,
            }
        ).encode()
        await self._storage.append_event(name.rollout, at, body, heard, now)
        return body

    async def _drop_routes(self, rollout: str, attempt: str, data: dict[str, Any]) -> None:
        events: list[Event] = [json.loads(event) for event in await self._storage.events(rollout, attempt)]
        position = superseded_routes(events, data)
        if position is not None:
            shorter = json.dumps(without_routed_experts(events[position])).encode()
            await self._storage.replace_event(rollout, attempt, position, shorter)

    async def of(self, shown: str, query: EventsQuery) -> bytes:
        """The events of a rollout in JSON: of the attempt that the URL names, else of its newest one."""
        name = names.parsed(shown)
        if name is None or not names.may_be_created(name.rollout):
            raise not_found(shown)
        row, record = await self._storage.row_and_record(name.rollout)
        if record is None:
            raise not_found(shown)
        newest = row.slots[0].attempt_id if row is not None and row.slots else record.attempt
        attempt = name.attempt or (names.attempt_name(newest) if newest else names.FIRST)
        stored = await self._storage.events(name.rollout, attempt)
        if query == EventsQuery():
            return b"[" + b",".join(stored) + b"]"
        events: list[Event] = [json.loads(event) for event in stored]
        if query.event_type is not None:
            events = [event for event in events if event["event_type"] == query.event_type]
        if query.format == "triplet":
            events = triplets(events)
        if not query.include_routed_experts:
            events = [without_routed_experts(event) for event in events]
        return json.dumps(events).encode()


def _open_attempt(row: TaskRow, wanted: str, given: str) -> str | None:
    """The id of the attempt that something may be added to; empty: the rollout was not handed out yet.

    It is the one that holds the rollout, or the one that ended it: the trainer adds to that, too.

    Args:
        row: the broker's facts.
        wanted: the attempt's name.
        given: the name as it was given, perhaps with the random part of the first attempt.
    """
    if not row.slots:
        return "" if wanted == names.FIRST and given == names.FIRST else None
    newest = row.slots[0].attempt_id
    if wanted != names.attempt_name(newest) or ("-" in given and given != names.full_name(newest)):
        return None
    return newest if row.letters[:1] in {"H", "D"} or row.state == "dead" else None
