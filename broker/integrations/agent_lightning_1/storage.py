"""What gateways keep in the run's namespace beside the broker's own state, and the commands for it.

| key | holds |
| --- | --- |
| `gateway:rollouts` | hash, rollout -> `Record`; a rollout without one does not exist for the API |
| `gateway:held:<controller>` | hash, attempt -> `Held`: what the controller was given |
| `gateway:ends`, `gateway:ended` | sorted set of the rollouts that ended, by number in that order; the newest number |
| `gateway:events:<rollout>:<attempt>` | list of the events of one attempt |
| `gateway:attempts:<rollout>` | sorted set of the attempts with events, by the time of the first one |
| `gateway:heard` | sorted set of attempts, by their last sign of life |
| `gateway:refused` | hash, what was refused because its attempt is over or another's -> how often |
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from broker.connections import AsyncTransport
from broker.errors import BrokerError
from broker.integrations.agent_lightning_1.messages import Record
from broker.integrations.agent_lightning_1.together import Together
from broker.protocol import gateway, keys, task_row, trainer
from broker.protocol.gateway import Noted, StatusChange
from broker.protocol.script_call import Argument, ScriptCall
from broker.protocol.task_row import TaskRow

T = TypeVar("T")

#: Signs of life older than this are forgotten, seconds.
_HEARD_FOR_S = 86_400.0
#: Ids of ended tasks in one look.
_PIECE = 500


@dataclass(slots=True)
class Held:
    """An attempt that a controller was given.

    Args:
        session: the broker's session that holds it.
        started: whether the controller said that it runs.
        by_k8s: a Kubernetes controller may run it.
        shown_at: when it was shown last while it was not started, seconds since 1970.
    """

    session: str
    started: bool
    by_k8s: bool
    shown_at: float

    def stored(self) -> str:
        """As text."""
        return json.dumps((self.session, self.started, self.by_k8s, self.shown_at))

    @classmethod
    def read(cls, text: bytes) -> Held:
        """Of a stored text."""
        return cls(*cast("list[Any]", json.loads(text)))


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one rollout.

    Args:
        row: the broker's facts; None: it does not know the task.
        record: the gateways' record; None: the rollout does not exist for the API.
        payload: the task's payload as it is stored, or None.
        attempts: the names of the attempts with events, oldest first.
    """

    row: TaskRow | None
    record: Record | None
    payload: bytes | None
    attempts: tuple[str, ...]


def _held(flat: Sequence[bytes]) -> dict[str, Held]:
    return {flat[i].decode(): Held.read(flat[i + 1]) for i in range(0, len(flat), 2)}


class Storage:
    """The keys of one run.

    Args:
        transport: the server.
        run: name of the run.
    """

    def __init__(self, transport: AsyncTransport, run: str) -> None:
        self._transport, self.run = transport, run
        self._together = Together(transport)
        self._rollouts, self._payloads = self._key("rollouts"), keys.key(run, "payloads")
        self._ends, self._ended, self._heard = self._key("ends"), self._key("ended"), self._key("heard")
        self._refused = self._key("refused")

    def _key(self, name: str) -> str:
        return keys.key(self.run, f"gateway:{name}")

    def _held(self, controller: str) -> str:
        return self._key(f"held:{controller}")

    def _events(self, rollout: str, attempt: str) -> str:
        return self._key(f"events:{rollout}:{attempt}")

    async def execute(self, *calls: ScriptCall[Any]) -> list[Any]:
        """Script calls in one exchange; their errors are among the answers."""
        return await self._transport.execute(calls)

    async def call(self, call: ScriptCall[T]) -> T:
        """One script call; raises its error."""
        return await self._transport.call(call)

    async def noted(self, call: ScriptCall[Noted]) -> Noted:
        """The answer of a call of `noting`. It may share an exchange with those of other requests. Raises its error."""
        (value,) = await self._together.execute([call])
        if isinstance(value, BrokerError):
            raise value
        return value

    async def record(self, rollout: str) -> Record | None:
        """The record of one rollout."""
        text: bytes | None = await self._transport.command("HGET", self._rollouts, rollout)
        return None if text is None else Record.read(text)

    async def known(self, rollout: str) -> Known:
        """All that is known of one rollout, without its events."""
        (record, payload, attempts), row = await self.call(
            task_row.task(self.run, rollout).after(
                ("HGET", self._rollouts, rollout),
                ("HGET", self._payloads, rollout),
                ("ZRANGE", self._key(f"attempts:{rollout}"), 0, -1),
            )
        )
        names = tuple(name.decode() for name in attempts)
        return Known(row, None if record is None else Record.read(record), payload, names)

    async def row(self, rollout: str) -> TaskRow | None:
        """The broker's facts about a rollout."""
        return await self.call(task_row.task(self.run, rollout))

    async def row_and_record(self, rollout: str) -> tuple[TaskRow | None, Record | None]:
        """The broker's facts about a rollout, and its record."""
        (record,), row = await self.call(task_row.task(self.run, rollout).after(("HGET", self._rollouts, rollout)))
        return row, None if record is None else Record.read(record)

    async def records(self, rollouts: Sequence[str]) -> list[Record | None]:
        """The records of some rollouts."""
        if not rollouts:
            return []
        texts: list[bytes | None] = await self._transport.command("HMGET", self._rollouts, *rollouts)
        return [None if text is None else Record.read(text) for text in texts]

    async def note_list(
        self,
        controller: str,
        before: Sequence[tuple[Argument, ...]],
        seen: Sequence[str],
        given: Mapping[str, Held],
    ) -> tuple[list[tuple[Record | None, bytes | None]], list[Record | None]]:
        """Notes what a controller's list gives it, and reads what the list shows: in one exchange.

        Args:
            controller: the controller.
            before: commands ahead of all else.
            seen: rollouts that it has already.
            given: new attempts of the controller.

        Returns:
            The records and payloads of `seen`; the records of `given`, None for an attempt that is over.
        """
        commands, now = [*before], time.time()
        if seen:
            commands += [("HMGET", self._rollouts, *seen), ("HMGET", self._payloads, *seen)]
        answers, noted = list[Any](), list[bytes]()
        if given:
            items = {attempt: held.stored() for attempt, held in given.items()}
            call = gateway.note_given(self.run, controller, Record(now, now).rest(), items)
            answers, noted = await self.call(call.after(*commands))
        elif commands:
            answers = await self._transport.pipeline(commands)
        found = zip(*answers[-2:], strict=True) if seen else ()
        return (
            [(None if text is None else Record.read(text), payload) for text, payload in found],
            [Record.read(text) if text else None for text in noted],
        )

    async def create_records(self, records: Mapping[str, Record]) -> list[str]:
        """Makes rollouts exist for the API that did not. Returns those that did."""
        made: list[int] = await self._transport.pipeline(
            [("HSETNX", self._rollouts, rollout, record.stored()) for rollout, record in records.items()]
        )
        return [rollout for rollout, is_new in zip(records, made, strict=True) if not is_new]

    def _holding(self, controller: str, *, keep: bool) -> list[tuple[Argument, ...]]:
        """The commands that read what a controller has, and prolong for how long that is remembered."""
        key = self._held(controller)
        return [("HGETALL", key), *([("PEXPIRE", key, gateway.HELD_FOR_MS)] if keep else [])]

    async def held(self, controller: str, *, keep: bool) -> dict[str, Held]:
        """What a controller was given, and has not ended.

        Args:
            controller: the controller.
            keep: whether this is remembered for another `HELD_FOR_MS`.
        """
        return _held((await self._transport.pipeline(self._holding(controller, keep=keep)))[0])

    async def held_and(
        self, controller: str, call: ScriptCall[T], *, keep: bool
    ) -> tuple[dict[str, Held], T | BrokerError]:
        """As `held`, and a script call in the same exchange, after it. Its error is not raised."""
        (answer,) = await self.execute(call.after(*self._holding(controller, keep=keep)))
        if isinstance(answer, BrokerError):
            return await self.held(controller, keep=keep), answer
        (flat, *_), value = answer
        return _held(flat), value

    def giving(self, controller: str, given: Mapping[str, Held]) -> list[tuple[Argument, ...]]:
        """The commands that note what a controller has."""
        parts = [part for attempt, held in given.items() for part in (attempt, held.stored())]
        key = self._held(controller)
        return [("HSET", key, *parts), ("PEXPIRE", key, gateway.HELD_FOR_MS)] if parts else []

    def taking(self, controller: str, attempts: Collection[str]) -> list[tuple[Argument, ...]]:
        """The commands that forget what a controller had."""
        return [("HDEL", self._held(controller), *attempts)] if attempts else []

    def noting(
        self,
        rollout: str,
        old: Record,
        new: Record,
        attempt: str = "",
        letter: Literal["", "H", "D"] = "",
        *,
        session: str = "",
        ended: bool = False,
        result: bytes = b"",
    ) -> ScriptCall[Noted]:
        """The call that writes down what a controller said.

        Args:
            rollout: its id.
            old: the record that has to be the newest.
            new: the record that takes its place.
            attempt: the attempt that the controller has from now on, or no more; empty: what it has stays.
            letter: `H`: the attempt has to hold its slot; `D`: it submits its result; empty: that is not looked at.
            session: the session by which the controller has the attempt; empty: it has it no more.
            ended: whether the rollout has ended.
            result: what the attempt submits.
        """
        held = Held(session, started=True, by_k8s=False, shown_at=0.0).stored() if session else ""
        heard = repr(time.time()) if session else ""
        change = StatusChange(rollout, attempt, letter, old.stored(), new.stored(), new.by, held, heard, ended, result)
        return gateway.note_status(self.run, change)

    async def delete(self, rollout: str) -> None:
        """Takes a rollout out of the run, and forgets it and its events."""
        forgotten, noted = await self.execute(
            trainer.forget(self.run, trainer.operator_call_id(secrets.token_hex(12)), [rollout]),
            gateway.note_deleted(self.run, [rollout]),
        )
        for answer in (forgotten, noted):
            if isinstance(answer, BrokerError):
                raise answer

    async def forget_freed(self, after: int) -> int:
        """Forgets rollouts that ended and whose tasks the broker has freed, of a piece of them.

        Args:
            after: the number of the last end of the piece before; 0: from the first one on.

        Returns:
            The number to go on after.
        """
        flat: list[bytes] = await self._transport.command(
            *("ZRANGEBYSCORE", self._ends, f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, _PIECE)
        )
        names = flat[::2]
        if not names:
            return 0
        there: list[bytes | None] = await self._transport.command("HMGET", keys.key(self.run, "tasks"), *names)
        freed = [name.decode() for name, task in zip(names, there, strict=True) if task is None]
        if freed:
            await self.call(gateway.note_deleted(self.run, freed))
        return int(float(flat[-1])) if len(names) == _PIECE else 0

    async def page_of_ends(self, after: int, limit: int) -> tuple[list[str], int, int]:
        """Some rollouts in the order in which they ended, the next cursor, and how many have ended altogether."""
        # The number is read first: a rollout that ends in between is on the next page.
        number, flat = await self._transport.pipeline(
            [
                ("GET", self._ended),
                ("ZRANGEBYSCORE", self._ends, f"({after}", "+inf", "WITHSCORES", "LIMIT", 0, limit),
            ]
        )
        total, last = int(number or 0), int(flat[-1]) if flat else 0
        return [name.decode() for name in flat[::2]], last if len(flat) == 2 * limit else max(after, last, total), total

    async def died_since(self, since: int) -> tuple[list[str], int]:
        """The tasks that died at a time (ms of the run's clock) or later, and the time of the last of them."""
        flat: list[bytes] = await self._transport.command(
            *("ZRANGEBYSCORE", keys.key(self.run, "dead"), since, "+inf", "WITHSCORES", "LIMIT", 0, _PIECE)
        )
        names = [name.decode() for name in flat[::2]]
        return names, int(float(flat[-1])) if flat else since

    async def note_ends(self, rollouts: Sequence[str]) -> None:
        """Notes of rollouts that they ended, of those that exist for the API."""
        existing = await self.records(rollouts)
        there = [rollout for rollout, record in zip(rollouts, existing, strict=True) if record is not None]
        if there:
            await self.call(gateway.note_ends(self.run, there))

    async def unnoted_results(self, cursor: int) -> tuple[list[str], int]:
        """Tasks with an accepted result that nobody noted as ended: their gateway died in between.

        Args:
            cursor: 0, or the cursor of the piece before.

        Returns:
            Those of a piece of all such tasks, and the cursor of the next piece; 0: this was the last one.
        """
        after, flat = await self._transport.command("ZSCAN", keys.key(self.run, "ready"), cursor, "COUNT", _PIECE)
        names: list[bytes] = flat[::2]
        noted: list[bytes | None] = await self._transport.pipeline([("ZSCORE", self._ends, name) for name in names])
        return [name.decode() for name, mark in zip(names, noted, strict=True) if mark is None], int(after)

    async def append_event(self, rollout: str, attempt: str, event: bytes, heard: str, timestamp: float) -> None:
        """Adds an event; `heard` is the attempt's id in the broker, or empty."""
        await self._transport.pipeline(
            [
                ("RPUSH", self._events(rollout, attempt), event),
                ("ZADD", self._key(f"attempts:{rollout}"), "NX", repr(timestamp), attempt),
                *([self._hearing(heard)] if heard else []),
            ]
        )

    async def events(self, rollout: str, attempt: str) -> list[bytes]:
        """The events of an attempt, in the order of their arrival."""
        return await self._transport.command("LRANGE", self._events(rollout, attempt), 0, -1)

    async def replace_event(self, rollout: str, attempt: str, at: int, event: bytes) -> None:
        """Writes another event in the place of one."""
        await self._transport.command("LSET", self._events(rollout, attempt), at, event)

    def _hearing(self, attempt: str) -> tuple[Argument, ...]:
        return ("ZADD", self._heard, repr(time.time()), attempt)

    async def silent_for_s(self, attempt: str) -> float:
        """For how long an attempt has given no sign of life, seconds; of one never heard it counts from this call."""
        now = time.time()
        _, at = await self._transport.pipeline(
            [("ZADD", self._heard, "NX", repr(now), attempt), ("ZSCORE", self._heard, attempt)]
        )
        return now - float(at)

    async def forget_signs(self) -> None:
        """Forgets old signs of life."""
        await self._transport.command("ZREMRANGEBYSCORE", self._heard, "-inf", repr(time.time() - _HEARD_FOR_S))

    async def refuse(self, kind: str) -> None:
        """Counts something that was refused because its attempt is over or another controller's."""
        await self._transport.command("HINCRBY", self._refused, kind, 1)

    async def refused(self) -> dict[str, int]:
        """How much was refused, by kind."""
        flat: list[bytes] = await self._transport.command("HGETALL", self._refused)
        return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}
