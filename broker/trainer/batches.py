"""Forming a batch: fill, filter, wait, seal, read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from broker.connections.base import BaseTransport
from broker.errors import Early, Gone, Recovering, TooMany
from broker.protocol import anyone, trainer
from broker.protocol.anyone import RolloutRow
from broker.protocol.trainer import Taken
from broker.trainer.batch_reader import RESULT_BYTES_WITH_ROWS, ROWS_PER_CALL, ResultSizes, read_rollouts, read_rows
from broker.trainer.exhausted import exhausted
from broker.trainer.filter import Accept, Gathered, check_filter
from broker.trainer.run_halted import run_halted, waits_in_a_halt
from broker.trainer.state import TrainerState
from broker.trainer.wait_log import WaitLog, timed_out
from broker.values.arguments import seconds_of, whole
from broker.values.config import MAX_BATCH_SIZE
from broker.values.rollout import Rollout

#: Ready tasks that one call looks at.
TAKE_LIMIT = 500
#: Longest wait for a marker before looking again, seconds.
LOOK_AGAIN_S = 2.0
#: How often an unsealed batch may lose rollouts while it is read, before that is an error.
_MOST_GONE = 10


class Deadline:
    """The time until which a caller waits; timeout_s None: for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s = seconds_of("timeout", timeout_s)
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self, at_most: float) -> float:
        """Seconds left, at most the limit."""
        return at_most if self._at is None else min(at_most, self._at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self._at is not None and time.monotonic() >= self._at


class Forming:
    """One batch that is formed.

    Args:
        state: the trainer; it remembers the rollouts that were read.
        step: the step whose batch it is.
        n: rollouts wanted.
        accept: the user's filter, or None.
        short: when fewer than n tasks are left in the run, take all that are left.
    """

    def __init__(self, state: TrainerState, step: int, n: int, accept: Accept | None, *, short: bool) -> None:
        self._state, self._step, self._n, self._short = state, step, n, short
        self._epoch = state.epoch
        self._wait = WaitLog(state, step, n)
        self._gone = 0  # how often the unsealed batch lost rollouts while it was read
        self._gathered = None if accept is None else self._gathered_by(accept)

    def _gathered_by(self, accept: Accept) -> Gathered:
        state = self._state
        for step in [step for step in tuple(state.gathered) if step < state.version]:
            state.gathered.pop(step, None)
        gathered = state.gathered.get(self._step)
        if gathered is None:
            gathered = state.gathered[self._step] = Gathered(accept)
        elif not gathered.is_by(accept):
            gathered.judge_by(accept)
        return gathered

    async def batch(self, deadline: Deadline) -> list[Rollout]:
        """Waits until the batch is sealed, and reads it.

        Raises:
            Exhausted: fewer tasks than wanted are left in the run.
            RunFinished: the run is finished, and the batch was not sealed before.
            RunHalted: the run is halted, and what is ready does not fill the batch.
            WaitTimeout: the deadline passed; the rollouts so far stay in the unsealed batch.
        """
        state, step, gathered = self._state, self._step, self._gathered
        state.fed.tell_of_lost_one(state.cursor)
        while True:
            if gathered is None:
                taken = await self._take(TAKE_LIMIT, seal=True, rows=min(self._n, ROWS_PER_CALL))
                more = taken.more
            else:
                taken, is_judged = await self._take_judged(gathered)
                if not is_judged:
                    continue
                more = taken.more  # a call that only seals does not tell
                if not taken.sealed and (taken.size >= self._n or (taken.exhausted and not taken.more)):
                    taken = await self._take(0, seal=True, rows=0)
            if taken.sealed:
                break
            if more:
                continue
            state.fed.raise_error()
            if taken.halted:
                raise await run_halted(state.io, state.run, state.now)
            if taken.exhausted and (not taken.short or taken.left == 0):
                raise await exhausted(state, left=taken.left, step=step, n=self._n)
            if deadline.is_over:
                raise await timed_out(
                    state.io, state.run, step, deadline.timeout_s, state.now, size=taken.size, n=self._n
                )
            await self._wait.tell(taken.size)
            woken = await state.io.wait_marker((state.marker,), max(0.0, deadline.left(LOOK_AGAIN_S)))
            if not woken:
                await state.io.execute((anyone.requeue(state.run, now=state.now),))
        rollouts = _with_time(await self._sealed(taken), taken.sealed_ms)
        state.digests[step] = taken.digest
        state.step_next = max(state.step_next, step + 1)
        state.gathered.pop(step, None)
        return rollouts

    async def _take(self, limit: int, *, seal: bool, rows: int) -> Taken:
        state = self._state
        self._refuse_after_recovery()
        taken = await state.numbered.call(
            lambda call_id: trainer.take(
                state.run, call_id, self._step, self._n, limit=limit, seal=seal, short=self._short,
                rows=rows, result_bytes=RESULT_BYTES_WITH_ROWS, now=state.now,
            )
        )  # fmt: skip
        self._refuse_after_recovery()
        return taken

    def _refuse_after_recovery(self) -> None:
        """Makes a batch that is formed in the background end, as a recovery begins."""
        if self._state.epoch != self._epoch:
            raise Recovering(version=self._state.version)

    async def _sealed(self, taken: Taken) -> list[Rollout]:
        """The rollouts of the sealed batch, in its order. Rollouts that were read before are not read again."""
        state, step, gathered = self._state, self._step, self._gathered
        if gathered is not None and (there := gathered.in_order(step, taken.digest)) is not None:
            return there
        rows = list(taken.rows)
        rows += await read_rows(state.io, state.run, step, len(rows), taken.size)
        if gathered is None:
            return await read_rollouts(state.io, state.run, step, rows, state.result_sizes, taken.results)
        await self._complete(gathered, rows)
        return [gathered.looks[row.task].rollout for row in rows]

    async def _take_judged(self, gathered: Gathered) -> tuple[Taken, bool]:
        """Fills the batch, lets the filter judge the new rollouts, and discards those that it refuses.

        Also returns whether the filter has seen the whole batch and refused nothing.
        """
        state = self._state
        was_whole, gathered.is_whole = gathered.is_whole, False
        taken = await self._take(TAKE_LIMIT, seal=False, rows=ROWS_PER_CALL)
        if taken.sealed:
            return taken, True
        new = taken.rows
        is_told = len(new) == taken.taken  # else the rows were lost with an earlier answer
        if was_whole and is_told and len(gathered.looks.keys() | {row.task for row in new}) == taken.size:
            sizes = state.result_sizes
            gathered.add(new, await read_rollouts(state.io, state.run, self._step, new, sizes, taken.results))
            gathered.is_whole = True
        else:
            gathered.is_whole = await self._look_at_all(gathered, taken.size)
        refused = await gathered.refused(state.io)
        if refused:
            is_whole, gathered.is_whole = gathered.is_whole, False
            await state.discard(refused, "filtered")
            gathered.drop(refused)
            gathered.is_whole = is_whole
        return taken, gathered.is_whole and not refused

    async def _look_at_all(self, gathered: Gathered, size: int) -> bool:
        """Reads the unsealed batch again when it differs from the rollouts known before plus those that came now.

        Another trainer had begun it, an answer was lost, or a rollout left it. Returns whether all of it could be read.
        """
        try:
            rows = await read_rows(self._state.io, self._state.run, self._step, 0, size)
            await self._complete(gathered, rows)
        except Gone:  # an operator cancelled a task meanwhile: the next take returns another size
            self._gone += 1
            if self._gone > _MOST_GONE:
                raise
            return False
        return True

    async def _complete(self, gathered: Gathered, rows: Sequence[RolloutRow]) -> None:
        """Makes these rows the known ones, and reads those that are new."""
        state = self._state
        gathered.keep(rows)
        new = [row for row in rows if row.task not in gathered.looks]
        gathered.add(new, await read_rollouts(state.io, state.run, self._step, new, state.result_sizes))


async def next_batch(
    state: TrainerState, step: int, n: int | None, accept: Accept | None, timeout: float | None, *, short: bool
) -> list[Rollout]:
    """The batch of a step; n None: the config's size."""
    wanted = state.config.batch_size if n is None else whole("n", n, 1, MAX_BATCH_SIZE)
    check_filter(accept)
    deadline = Deadline(timeout)
    while True:
        try:
            return await Forming(state, step, wanted, accept, short=short).batch(deadline)
        except TooMany:
            if n is not None or (await state.read_config()).batch_size == wanted:
                raise
            wanted = state.config.batch_size  # an operator has made it smaller


def share_of(size: int, rank: int, world: int) -> range:
    """The places of a batch that belong to one rank. Each rank's are contiguous; together the ranks have all."""
    return range(size * rank // world, size * (rank + 1) // world)


async def read_batch(
    io: BaseTransport, run: str, step: int, rank: int, world: int, timeout: float | None
) -> list[Rollout]:
    """The shard of one rank of a sealed batch; waits until it is sealed, or the run is finished."""
    step, world = whole("step", step, 0, 2**53 - 1), whole("world", world, 1, MAX_BATCH_SIZE)
    rank = whole("rank", rank, 0, world - 1)
    deadline, pause_s = Deadline(timeout), 0.01
    while True:
        with suppress(Early):
            piece = await io.call(anyone.batch(run, step, 0, 0))
            if piece.sealed:
                break
        if await waits_in_a_halt(io, run, step):
            raise await run_halted(io, run)
        if deadline.is_over:
            raise await timed_out(io, run, step, timeout)
        await io.pause(max(0.0, deadline.left(pause_s)))
        pause_s = min(0.5, pause_s * 2)
    share = share_of(piece.size, rank, world)
    rows = await read_rows(io, run, step, share.start, share.stop)
    return _with_time(await read_rollouts(io, run, step, rows, ResultSizes()), piece.sealed_ms)


def _with_time(rollouts: list[Rollout], sealed_ms: int) -> list[Rollout]:
    """The rollouts of a batch, which know from now on when it was sealed; 0: nobody noted it."""
    if sealed_ms:
        sealed_at = sealed_ms / 1000
        for rollout in rollouts:
            rollout.sealed_at = sealed_at
    return rollouts
