"""What a trainer remembers of its run, and what its calls do."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.connections.base import BaseTransport
from broker.connections.repeated_warning import RepeatedWarning
from broker.errors import BadArgument, BrokerError, Early, TooBig
from broker.protocol import anyone, keys, trainer
from broker.protocol.anyone import Trimmed
from broker.protocol.script_call import Now, ScriptCall
from broker.protocol.trainer import NewTask, Opened
from broker.trainer.batch_reader import ResultSizes
from broker.trainer.enqueued import Arrival, Enqueued
from broker.trainer.feed_state import Feeding, FeedState, FeedStopped
from broker.trainer.filter import Gathered
from broker.trainer.last_batch import LastBatch
from broker.trainer.numbered_calls import NumberedCalls
from broker.values import spans
from broker.values.arguments import bytes_of, check_text, check_type, one_or_several, shown, whole
from broker.values.config import RunConfig
from broker.values.config_change import values_before
from broker.values.evaluation_payload import encode_payload
from broker.values.hooks import check_plain_hook
from broker.values.names import check_name
from broker.values.rollout import Rollout
from broker.values.task import MAX_PRIORITY, Task

_log = logging.getLogger(__name__)

#: Tasks of one enqueue call, and the bytes of payload above which a call has fewer tasks.
TASKS_PER_CALL = 64
PAYLOAD_BYTES_PER_CALL = 4 * 1024 * 1024
#: Slots of one enqueue call that may start tasks over: the script writes something for each of these slots.
MOST_SLOTS_AGAIN = 1024
#: Tasks that one trim frees; a larger batch needs several trims.
TRIM_TASKS = 250
#: Ids of one discard, cancel or retry call.
IDS_PER_CALL = 250


#: The last call of an enqueue carries this, when it stores no position and says nothing of the supply.
_NOTHING: tuple[str | None, trainer.Supply] = (None, "")


@dataclass(frozen=True, slots=True)
class _Advance:
    """An advance that was asked for and has no answer yet."""

    step: int
    digest: str
    blob: bytes | None
    allow_empty: bool


class TrainerState:
    """State of one trainer of one run.

    Args:
        io: sends its calls.
        run: name of the run.
        config: the config to create the run with, or to compare with the run's; None: the run must exist.
        update: change a stored config that differs.
        clock: injected time in milliseconds; None: the server's.
    """

    def __init__(
        self,
        io: BaseTransport,
        run: str,
        config: RunConfig | None,
        *,
        update: bool,
        clock: Callable[[], int] | None,
    ) -> None:
        self.run = check_name("run", run)
        if config is not None:
            check_type("config", config, RunConfig, "a broker.RunConfig, or None for the stored one")
        check_plain_hook("clock", clock)
        self._given, self._update, self._clock = config, update, clock
        self.io = io
        self.numbered = NumberedCalls(io, secrets.token_hex(8))
        self.config: RunConfig = config if config is not None else RunConfig(consumer_batch_size=1)
        self.version = 0
        self.step_next = 0
        self.epoch = ""
        self.made_by = ""  # the epoch that made the version
        self.cursor: Any = None
        self.fed = FeedState(run)
        self.digests: dict[int, str] = {}
        self.delivered = -1  # newest step whose batch the caller has
        self._delivered_at = -1  # the version when the caller got it
        self._freeing = RepeatedWarning()  # that tasks are freed that were not trained on
        self._freed_dead = self._freed_rejected = 0  # since that was last said
        self._asked: _Advance | None = None
        self._repeated: int | None = None  # the answer of an advance that another call has made sure of
        self._is_sure = True  # the version is known: no recovery was left in the middle
        self.result_sizes = ResultSizes()
        self.last_batch = LastBatch()
        self.gathered: dict[int, Gathered] = {}  # by step, for batches that are formed with a filter

    @property
    def now(self) -> Now:
        """The injected clock, if there is one."""
        return "" if self._clock is None else self._clock()

    @property
    def marker(self) -> str:
        """Key of the marker that says enough rollouts are ready."""
        return keys.wake_ready(self.run)

    def step_to_deliver(self, *, prefetch: bool) -> int:
        """The step whose batch the caller gets next.

        It is the version. With prefetch it is the step after, once the caller has the batch of the version.
        """
        return self.version + 1 if prefetch and self.delivered >= self.version else self.version

    async def open(self) -> Opened:
        """Becomes the run's trainer."""
        config = None if self._given is None else self._given.to_fields()
        opened: Opened = await self.io.call(
            trainer.open_run(self.run, self.numbered.token, config, update=self._update, now=self.now)
        )
        self.epoch = opened.epoch
        await self.refresh()
        return opened

    async def refresh(self) -> dict[str, str]:
        """Reads the run's state: version, next step, config, cursor."""
        stored: dict[str, str] = await self.io.call(anyone.stats(self.run, now=self.now))
        self.version, self.step_next = int(stored["version"]), int(stored["step_next"])
        self.config = RunConfig.from_fields(stored)
        self.cursor = json.loads(stored["cursor"]) if stored.get("cursor") else None
        self.fed.supply = stored.get("supply", "")
        if not self.epoch:
            self.epoch = stored["epoch"]
        self.made_by = stored.get("version_epoch") or self.epoch
        self._is_sure = True
        return stored

    def recovering(self) -> None:
        """Notes that a recovery begins: until it has ended, the version is not known."""
        self._is_sure = False
        self.fed.stop()

    def recovered(self, epoch: str) -> None:
        """Notes that the run has gone to another version under a new epoch; earlier batches and calls are over."""
        self.epoch, self._asked, self._repeated, self.delivered = epoch, None, None, -1
        self.digests.clear()
        self.gathered.clear()
        self.last_batch.recovered()

    def deliver_again(self) -> None:
        """Notes that the caller has no batch that it will advance."""
        self.delivered = min(self.delivered, self.version - 1)

    def deliver(self, step: int, batch: Sequence[Rollout]) -> None:
        """Notes that the caller gets the batch of a step."""
        if (active := spans.active) is not None:
            active.delivered(self.run, step, batch)
        self.last_batch.delivered(step, batch)
        self.delivered, self._repeated, self._delivered_at = step, None, self.version

    def check_weights(self, weights: int | None) -> None:
        """Refuses a checkpoint where the caller may save other weights beside it than those of the run's version.

        Args:
            weights: the version of the weights that the caller saves; None: it does not say.
        """
        version = self.version
        if weights is not None and whole("weights", weights, 0, 2**53 - 1) != version:
            raise BadArgument(argument="weights", given=weights, expected=f"the run's version, which is {version}")
        if weights is None and self.delivered >= version == self._delivered_at:
            raise BadArgument(
                problem=f"the batch of version {version} was handed out: call advance() before checkpoint(); or, where "
                f"the weights have not been trained on that batch yet, checkpoint(path, weights={version})"
            )

    async def settle(self) -> int:
        """The version, after making sure of an advance or a recovery that has no answer yet."""
        if self._asked is not None:
            self._repeated = await self._make(self._asked)
        if not self._is_sure:
            await self.refresh()
        return self.version

    async def enqueue(self, tasks: Task | Iterable[Task], cursor: Any = None, *, again: bool = False) -> Enqueued:
        """Adds tasks in pieces; the cursor is stored with the last one."""
        several = one_or_several("tasks", tasks, Task, "a broker.Task, or several")
        with self.arrival(tasks, cursor, again=again) as arrival:
            await self.add(arrival, several, is_last=True)
            if cursor is not None:
                self.cursor = cursor
        return arrival.enqueued

    async def feed(self, feeder: Feeding, tasks: list[Task], cursor: Any, supply: trainer.Supply) -> int:
        """Adds tasks of a feeder, and says whether it will bring more. Returns how many were added.

        Raises:
            FeedStopped: the feeder was stopped; the tasks that were not sent yet are not sent.
        """

        def check() -> None:
            if not feeder.is_working:
                raise FeedStopped

        arrival = Arrival(tasks, None if cursor is None else _cursor_text(cursor), again=False)
        arrival.supply, arrival.check = supply, check
        await self.add(arrival, tasks, is_last=True)
        if feeder.is_working:
            self.fed.supply = "more" if supply == "begin" else supply
            if cursor is not None:
                self.cursor = cursor
        return arrival.enqueued.added

    def arrival(self, given: object, cursor: Any, *, again: bool) -> Arrival:
        """Begins an enqueue; refuses an iterator that an earlier enqueue left in the middle."""
        return Arrival(given, None if cursor is None else _cursor_text(cursor), again=bool(again))

    async def add(self, arrival: Arrival, tasks: Iterable[Task], *, is_last: bool) -> None:
        """Adds tasks of an enqueue in pieces; with the last of them the cursor is stored."""
        closing = (arrival.cursor, arrival.supply) if is_last else _NOTHING
        pieces = self._pieces(iter(tasks), MOST_SLOTS_AGAIN if arrival.again else None)
        piece = next(pieces, None)
        while piece is not None or closing != _NOTHING:
            following = next(pieces, None)
            sent = piece or []
            between: tuple[str | None, trainer.Supply] = (None, arrival.supply_between)
            this, closing = (closing, _NOTHING) if following is None else (between, closing)

            def make(
                call_id: trainer.CallId, sent: list[NewTask] = sent, this: tuple[str | None, trainer.Supply] = this
            ) -> ScriptCall[trainer.EnqueuedPiece]:
                arrival.check()
                return trainer.enqueue(
                    self.run, call_id, sent, this[0], again=arrival.again, supply=this[1], now=self.now
                )

            answer = await self.numbered.call(make)
            ids = [sent[i].id for i in answer.existing]
            arrival.add(answer.added, dict(zip(ids, answer.states, strict=True)), ids)
            piece = following

    def _pieces(self, tasks: Iterator[Task], most_slots: int | None) -> Iterator[list[NewTask]]:
        piece, size, slots, most = list[NewTask](), 0, 0, self.config.max_payload_bytes
        for task in tasks:
            # pydantic's own check is slow, and users may have no type checker.
            if type(task) is not Task and not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise BadArgument(argument="tasks", given=type(task).__name__, expected="broker.Task")
            payload = encode_payload(task.payload)
            length = len(payload)
            if length > most:
                raise TooBig(what="payload", subject=task.id, size=length, limit=most)
            if piece and size + length > PAYLOAD_BYTES_PER_CALL:
                yield piece
                piece, size, slots = [], 0, 0
            piece.append(NewTask.of(task, payload))
            size += length
            slots += task.samples
            if len(piece) == TASKS_PER_CALL or (most_slots is not None and slots >= most_slots):
                yield piece
                piece, size, slots = [], 0, 0
        if piece:
            yield piece

    async def discard(self, tasks: Iterable[str], reason: str = "discarded") -> dict[str, str]:
        """Takes rollouts out for good: task -> `discarded`, or the state it is in."""
        check_text("reason", reason)
        return await self._by_ids(tasks, lambda by, ids: trainer.discard(self.run, by, reason, ids, now=self.now))

    async def cancel(self, tasks: Iterable[str]) -> dict[str, str]:
        """Takes tasks out of the run: task -> `cancelled`, or the state it is in."""
        return await self._by_ids(tasks, lambda call_id, ids: trainer.cancel(self.run, call_id, ids, now=self.now))

    async def retry(self, tasks: Iterable[str]) -> dict[str, str]:
        """Starts dead or rejected tasks over: task -> `retried`, or the state it is in."""
        return await self._by_ids(tasks, lambda call_id, ids: trainer.retry(self.run, call_id, ids, now=self.now))

    async def prioritise(self, priorities: Mapping[str, int]) -> dict[str, str]:
        """Gives tasks that wait another priority: task -> `prioritised`, or the state it is in."""
        checked = checked_priorities(priorities)

        def make(call_id: trainer.CallId, ids: list[str]) -> ScriptCall[list[str]]:
            return trainer.prioritise(self.run, call_id, [(task, checked[task]) for task in ids], now=self.now)

        return await self._by_ids(checked, make)

    async def _by_ids(self, tasks: Iterable[str], make: Callable[[trainer.CallId, list[str]], Any]) -> dict[str, str]:
        async def send(piece: list[str]) -> list[str]:
            return await self.numbered.call(lambda call_id: make(call_id, piece))

        return await in_pieces(tasks, send)

    async def advance(self, blob: bytes | None = None, *, allow_empty: bool = False) -> int:
        """Acknowledges the batch of step = version. Returns the new version.

        When the advance before has no answer yet, this repeats that one.

        Raises:
            Early: this trainer has not handed out the batch.
        """
        if blob is not None:
            blob = bytes_of("blob", blob)
        if self._asked is None:
            if self._repeated is not None:
                version, self._repeated = self._repeated, None
                return version
            await self.settle()
            step = self.version
            digest = self.digests.get(step, "-") if step <= self.delivered else "-"
            if digest == "-" and not allow_empty:
                raise Early(step=step, version=self.version, step_next=self.step_next)
            self._asked = _Advance(step, digest, blob, allow_empty)
        return await self._make(self._asked)

    async def _make(self, asked: _Advance) -> int:
        """Makes an advance that may have been made before: the run advances from each step once."""
        step = asked.step
        try:
            advanced, (trimmed,) = await self.numbered.call_with(
                lambda call_id: trainer.advance(
                    self.run, call_id, step, asked.digest, allow_empty=asked.allow_empty, blob=asked.blob, now=self.now
                ),
                (anyone.trim(self.run, now=self.now),),
            )
        except BrokerError as refusal:
            if "used_call" not in refusal.fields:
                raise  # the server did not execute it, or may not have
            if isinstance(refusal, Early):
                await self.refresh()
            self._asked = None
            if self.version > step:
                self._ended(step)
                return self.version
            raise
        more: Trimmed | BrokerError = trimmed
        rest = advanced.size // TRIM_TASKS  # one trim could not free all
        self._tell_freed(more)
        while more == anyone.TRIM_AGAIN or (more == 1 and rest > 0):
            more = await self.trim()
            rest -= 1
        if advanced.batch_size not in (0, self.config.batch_size):
            await self.read_config()
        self._ended(step)
        if self.version == step:  # no other thread has done it
            self.version, self.made_by = advanced.version, self.epoch
            self.step_next = max(self.step_next, self.version)
        self._asked = None
        return self.version

    def _ended(self, step: int) -> None:
        """Notes that a step is over."""
        self.digests.pop(step, None)
        if (active := spans.active) is not None:
            active.trained(self.run, step)

    async def trim(self) -> Trimmed:
        """Frees some state that nothing needs any more, and warns of tasks that were never trained on."""
        trimmed: Trimmed = await self.io.call(anyone.trim(self.run, now=self.now))
        self._tell_freed(trimmed)
        return trimmed

    def _tell_freed(self, trimmed: Trimmed | BrokerError) -> None:
        if isinstance(trimmed, Trimmed) and (trimmed.dead or trimmed.rejected):
            self._freed_dead += trimmed.dead
            self._freed_rejected += trimmed.rejected
            # A filter that refuses much frees some at each advance.
            if self._freeing.tell(
                "run %s: %d dead and %d rejected tasks were freed, the oldest beyond max_finished; "
                "they were not trained on: enqueue(tasks, again=True) takes them again, nothing else does",
                *(self.run, self._freed_dead, self._freed_rejected),
            ):
                self._freed_dead = self._freed_rejected = 0

    async def pause(self, mode: str) -> str:
        """Sets the mode, `paused` or `draining`. Returns the mode before."""
        before = await self.numbered.call(lambda call_id: trainer.pause(self.run, call_id, mode, now=self.now))
        return before.mode

    async def resume(self) -> str:
        """Ends a pause and a halt. Returns what it ended, in words."""
        before = await self.numbered.call(
            lambda call_id: trainer.pause(self.run, call_id, "", halted=True, now=self.now)
        )
        return before.ended

    async def configure(self, changes: dict[str, str]) -> dict[str, Any]:
        """Changes fields of the config. Returns the values before of those that changed."""
        before = await self.numbered.call(lambda call_id: trainer.configure(self.run, call_id, changes, now=self.now))
        await self.read_config()
        return values_before(before)

    async def read_config(self) -> RunConfig:
        """Reads the config of the run, which an operator may have changed."""
        self.config = RunConfig.from_fields(await self.io.call(anyone.stats(self.run, now=self.now)))
        return self.config

    async def finish(self) -> int:
        """The run is over. Returns how many tasks are left."""
        finished = await self.numbered.call(lambda call_id: trainer.finish(self.run, call_id, now=self.now))
        self.fed.stop()
        return finished.left

    async def requeue(self, limit: int) -> int:
        """Takes back what is due, at most limit of each kind. Returns how many."""
        return await self.io.call(anyone.requeue(self.run, whole("limit", limit, 1, 1000), now=self.now))

    async def repair(self) -> dict[str, tuple[int, int]]:
        """Recomputes the counters. Returns name -> (before, after) of those that were wrong."""
        return await self.numbered.call(lambda call_id: trainer.repair(self.run, call_id, now=self.now))


async def in_pieces(tasks: Iterable[str], send: Callable[[list[str]], Awaitable[list[str]]]) -> dict[str, str]:
    """A word of the server for each task.

    Args:
        tasks: their ids, or one id.
        send: makes one call for some tasks. It may answer for the first of them only: then it gets the rest again.
    """
    ids = [check_name("task", task) for task in one_or_several("tasks", tasks, str, "an id of a task, or several")]
    words: list[str] = []
    while piece := ids[len(words) : len(words) + IDS_PER_CALL]:
        words += await send(piece)
    return dict(zip(ids, words, strict=True))


def checked_priorities(given: object) -> dict[str, int]:
    """Priorities by task.

    Raises:
        BadArgument: it is no mapping, or a priority is no whole number from -1000 to 1000.
    """
    if not isinstance(given, Mapping):
        raise BadArgument(argument="priorities", given=shown(given), expected="a mapping, task -> priority")
    priorities: dict[Any, Any] = dict(given)  # pyright: ignore[reportUnknownArgumentType]
    return {task: whole("priority", one, -MAX_PRIORITY, MAX_PRIORITY) for task, one in priorities.items()}


def _cursor_text(cursor: Any) -> str:
    try:
        text = json.dumps(cursor, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadArgument(argument="cursor", given=type(cursor).__name__, expected="something JSON can hold") from error
    if len(text) > 65536:
        raise TooBig(what="cursor", size=len(text), limit=65536)
    return text
