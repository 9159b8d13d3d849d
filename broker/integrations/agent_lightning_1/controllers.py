"""What each controller gets: the attempts that it was given, and new ones as it asks for its list.

A controller of agent-lightning 1.x says nothing of itself. Here it has a name, from its URL
(`http://host:port/controller/NAME`), or else its address. Each gateway holds the attempts of a controller by a session
with its name. To ask for a list is the controller's sign of life: it renews the leases of all its sessions, also of
those that other gateways began.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from broker.errors import BrokerError, NoSession
from broker.integrations.agent_lightning_1.messages import Record, RolloutState, rollout_json
from broker.integrations.agent_lightning_1.names import full_name, shown
from broker.integrations.agent_lightning_1.payloads import Unfit, is_for_k8s, shown_payload
from broker.integrations.agent_lightning_1.shares import Controller, Given, Who, is_seen, share
from broker.integrations.agent_lightning_1.storage import Held, Storage
from broker.protocol import worker
from broker.protocol.ids import attempt_id
from broker.protocol.script_call import ScriptCall
from broker.protocol.worker import Claimed, Granted, Renewed

_log = logging.getLogger(__name__)

#: Attempts of one list and of one claim.
_MOST = 1000
#: The number of a claim that every claim of a session has: its unknown attempts are given back.
_ALL_CLAIMS = 2**53 - 1
#: How often the time for which the server remembers what a controller has is prolonged, seconds.
_KEEP_EVERY_S = 3600.0
#: Controllers that did not ask for so long are forgotten here, seconds; their attempts are not.
_FORGET_AFTER_S = 3600.0


class Controllers:
    """The controllers of one gateway.

    Args:
        storage: the run.

    Attributes:
        lease_s: the run's lease when the newest session began, seconds.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.lease_s = 60.0
        self._known: dict[str, Controller] = {}

    def forget_silent(self) -> None:
        """Forgets controllers that have not asked for long."""
        before = time.monotonic() - _FORGET_AFTER_S
        for name in [name for name, one in self._known.items() if one.asked_at < before and not one.turn.locked()]:
            del self._known[name]

    def given(self, name: str, shown: str) -> Given | None:
        """An attempt of a controller by the id that it was shown under, as this gateway knows it."""
        one = self._known.get(name)
        return None if one is None else one.given.get(shown)

    def note_start(self, record: Record, session: str) -> None:
        """Notes that a controller started an attempt, which a session holds."""
        one = self._known.setdefault(record.by, Controller())
        one.started += 1
        one.started_at = time.time()
        one.given[shown(record.attempt)] = Given(session, record)

    def forget(self, record: Record) -> None:
        """Forgets an attempt that is over, or that another gateway changed."""
        one = self._known.get(record.by)
        if one is not None and record.attempt:
            one.given.pop(shown(record.attempt), None)

    async def listed(self, asking: Who, states: frozenset[RolloutState], limit: int) -> list[bytes]:
        """The controller's list: what it holds, and new attempts if it asks for waiting ones.

        Args:
            asking: the controller.
            states: which attempts it wants to see.
            limit: how many at most.
        """
        one = self._known.setdefault(asking.name, Controller())
        async with one.turn:
            one.asked_at = time.monotonic()
            keep = one.asked_at - one.kept_at >= _KEEP_EVERY_S
            if keep:
                one.kept_at = one.asked_at
            asks_for_new, most = RolloutState.QUEUING in states, min(limit, _MOST)
            # To this gateway's knowledge it has nothing: it gets new ones in the exchange that reads what it has.
            wanted = share({}, asking, one, most)[1] if asks_for_new and one.session and not one.given else 0
            ahead = wanted > 0
            if ahead:
                held, granted = await self._claimed_ahead(asking, one, wanted, keep=keep)
                surplus, wanted = [], 0
            else:
                held, granted = await self._storage.held(asking.name, keep=keep), list[Granted]()
                surplus, wanted = share(held, asking, one, most)
            if asks_for_new:
                one.started = 0
            else:
                surplus, wanted = [], 0
            kept = {attempt: of for attempt, of in held.items() if attempt not in surplus}
            dealt_with = one.number - ahead  # the newest attempts are not noted yet
            over, more = await self._renewed(asking.name, one, kept, surplus, wanted, dealt_with)
            granted += more
            for attempt in over:
                del kept[attempt]
            seen = [a for a, of in kept.items() if is_seen(of, asking, one, states)][:limit]
            return await self._shown(asking, one, seen, kept, [*over, *surplus], granted, states)

    async def claim_until(self, asking: Who, rollout: str) -> bool:
        """Claims attempts for a controller that starts a rollout which it was not given, until it has that one."""
        one = self._known.setdefault(asking.name, Controller())
        async with one.turn:
            for _ in range(_MOST):
                granted = await self._claimed(asking.name, one, 1)
                if not granted:
                    return False
                await self._shown(asking, one, [], {}, [], granted, frozenset())  # in no list yet
                if granted[0].task == rollout:
                    return True
        return False

    async def _claimed_ahead(
        self, asking: Who, one: Controller, wanted: int, *, keep: bool
    ) -> tuple[dict[str, Held], list[Granted]]:
        """What a controller was given before, and new attempts, in one exchange."""
        one.number += 1
        held, claimed = await self._storage.held_and(asking.name, self._claim(one, wanted), keep=keep)
        return held, await self._granted_again(asking.name, one, wanted, claimed)

    async def _renewed(
        self, name: str, one: Controller, kept: dict[str, Held], surplus: Sequence[str], wanted: int, number: int
    ) -> tuple[list[str], list[Granted]]:
        """Renews the sessions of what is kept, gives back the surplus, and claims: in one exchange.

        Args:
            name: the controller's.
            one: the controller.
            kept: what it has.
            surplus: what it gives back.
            wanted: how many new attempts it gets.
            number: of the last claim of its session here whose attempts are in `kept`.
        """
        sessions: dict[str, list[str]] = {}
        for attempt, of in kept.items():
            sessions.setdefault(of.session, []).append(attempt)
        run = self._storage.run
        calls: list[ScriptCall[Any]] = []
        if surplus:
            calls.append(worker.release(run, surplus))
        calls += [
            worker.renew(run, session, number if session == one.session else _ALL_CLAIMS, attempts)
            for session, attempts in sessions.items()
        ]
        claims = wanted > 0 and bool(one.session)
        if claims:
            one.number += 1
            calls.append(self._claim(one, wanted))
        answers = await self._storage.execute(*calls)
        granted: list[Granted] = []
        if claims:
            claimed = answers.pop()
            granted = await self._granted_again(name, one, wanted, claimed)
        elif wanted > 0:
            granted = await self._claimed(name, one, wanted)
        over: list[str] = []
        for attempts, renewed in zip(sessions.values(), answers[1:] if surplus else answers, strict=True):
            if isinstance(renewed, NoSession):
                over += attempts
            elif isinstance(renewed, BrokerError):
                raise renewed
            else:
                ended: Renewed = renewed
                over += ended.abandon
        return over, granted

    def _claim(self, one: Controller, wanted: int) -> ScriptCall[Claimed]:
        return worker.claim(self._storage.run, one.session, one.number, wanted, secrets.token_hex(4))

    async def _granted_again(
        self, name: str, one: Controller, wanted: int, claimed: Claimed | BrokerError
    ) -> list[Granted]:
        if isinstance(claimed, NoSession):  # it ran out, or the server lost it
            one.session = ""
            return await self._claimed(name, one, wanted)
        if isinstance(claimed, BrokerError):
            raise claimed
        return list(claimed.granted)

    async def _claimed(self, name: str, one: Controller, wanted: int) -> list[Granted]:
        """Claims by a session that may have to begin."""
        for _ in range(3):
            if not one.session:
                joined = await self._storage.call(worker.join(self._storage.run, name, secrets.token_hex(6)))
                one.session, one.number, self.lease_s = joined.session, 0, joined.lease_ms / 1000
            one.number += 1
            try:
                return list((await self._storage.call(self._claim(one, wanted))).granted)
            except NoSession:
                one.session = ""
        return []

    async def _shown(
        self,
        asking: Who,
        one: Controller,
        seen: Sequence[str],
        kept: dict[str, Held],
        gone: Sequence[str],
        granted: Sequence[Granted],
        states: frozenset[RolloutState],
    ) -> list[bytes]:
        """Notes what a controller has now, and makes its list."""
        now = time.time()
        payloads, given = await self._fit(granted, one.session, now if states else 0.0)
        for attempt in seen:
            if not kept[attempt].started:
                kept[attempt].shown_at = now
        shown_again = {attempt: kept[attempt] for attempt in seen if not kept[attempt].started}
        storage = self._storage
        # What another gateway ended since is noted again here. The next list finds that it is over.
        found, records = await storage.note_list(
            asking.name,
            [*storage.taking(asking.name, gone), *storage.giving(asking.name, shown_again)],
            [attempt_id(attempt).task for attempt in seen],
            given,
        )
        known: list[tuple[str, Held, Record, bytes | None]] = [
            (attempt, kept[attempt], record or Record(now, now), None if body is None else shown_payload(body))
            for attempt, (record, body) in zip(seen, found, strict=True)
        ]
        known += [
            (attempt, given[attempt], record, payloads[attempt])
            for attempt, record in zip(given, records, strict=True)
            if record is not None
        ]
        rows: list[bytes] = []
        one.given = {name: of for name, of in one.given.items() if of.record.attempt in kept}
        for attempt, held, record, payload in known:
            name = shown(attempt)
            one.given[name] = Given(held.session, record)
            state = RolloutState.RUNNING if held.started else RolloutState.QUEUING
            if payload is not None and state in states:
                rows.append(rollout_json(name, payload, record, state.value, full_name(attempt)))
        return rows

    async def _fit(
        self, granted: Sequence[Granted], session: str, shown_at: float
    ) -> tuple[dict[str, bytes], dict[str, Held]]:
        """The new attempts that can be shown, with their payloads; the others fail for good."""
        payloads: dict[str, bytes] = {}
        given: dict[str, Held] = {}
        for grant in granted:
            try:
                payload = _payload(grant)
            except Unfit as error:
                _log.error("task %s cannot be shown to controllers: %s", grant.task, error)
                await self._storage.call(worker.fail(self._storage.run, grant.attempt_id, str(error), may_retry=False))
                continue
            payloads[grant.attempt_id] = payload
            given[grant.attempt_id] = Held(session, started=False, by_k8s=is_for_k8s(payload), shown_at=shown_at)
        return payloads, given


def _payload(grant: Granted) -> bytes:
    if grant.samples > 1:
        raise Unfit("its task asks for several samples, and agent-lightning 1.x has no groups")
    return shown_payload(grant.payload)
