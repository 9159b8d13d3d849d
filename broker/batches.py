"""Forming a batch: fill, filter, wait, seal, read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from broker.arguments import seconds_of, shown, whole
from broker.errors import BadArgument, BrokerError, Early, Exhausted, Recovering, WaitTimeout
from broker.flow import Call, Flow, GatedCall, Judge, Pause, WaitMarker
from broker.models import MAX_BATCH_SIZE, Rollout
from broker.operations import anyone, trainer
from broker.operations.anyone import BatchPiece, RolloutRow
from broker.operations.trainer import Taken
from broker.reading import RESULT_BYTES_WITH_ROWS, ROWS_PER_CALL, ResultSizes, read_rollouts, read_rows
from broker.trainer_core import TrainerCore

#: Ready tasks that one call looks at.
TAKE_LIMIT = 500
#: Longest wait for a marker before looking again, seconds.
LOOK_AGAIN_S = 2.0

Accept = Callable[[Rollout], Any]


class Deadline:
    """Until when a caller is willing to wait; timeout_s None: for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s = seconds_of("timeout", timeout_s)
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self, at_most: float) -> float:
        """Seconds left, at most so many."""
        return at_most if self._at is None else min(at_most, self._at - time.monotonic())

    def check(self, what: str, **fields: Any) -> None:
        """Raises WaitTimeout once nothing is left."""
        if self._at is not None and time.monotonic() >= self._at:
            raise WaitTimeout(what=what, seconds=self.timeout_s, **fields)


class Forming:
    """One batch on its way: what was judged so far.

    Args:
        core: the trainer.
        step: the step whose batch it is.
        n: rollouts wanted.
        accept: the user's filter, or None.
        short: take what is left of the run when that is less than n.
    """

    def __init__(self, core: TrainerCore, step: int, n: int, accept: Accept | None, *, short: bool) -> None:
        self._core, self._step, self._n, self._accept, self._short = core, step, n, accept, short
        self._kept: dict[str, Rollout] = {}
        self._epoch = core.epoch

    def batch(self, deadline: Deadline) -> Flow[list[Rollout]]:
        """Waits until the batch is sealed, and reads it.

        Raises:
            Exhausted: fewer tasks than wanted are left in the run.
            WaitTimeout: the deadline passed; what was gathered stays in the open batch.
        """
        core, step = self._core, self._step
        size = 0
        while True:
            taken, piece = yield from self._take(TAKE_LIMIT, seal=self._accept is None, size=size)
            size = taken.size
            if not taken.sealed and self._accept is not None:
                if (yield from self._filter(taken, piece)):
                    continue
                if taken.size >= self._n or (taken.exhausted and not taken.more):
                    taken, piece = yield from self._take(0, seal=True, size=size)
            if taken.sealed:
                break
            if taken.more and taken.size < self._n:
                continue
            if taken.exhausted and (not self._short or taken.left == 0):
                raise Exhausted(left=taken.left, step=step, n=self._n)
            deadline.check(f"the batch of step {step}", size=taken.size, n=self._n, run=core.run)
            woken = yield WaitMarker((core.marker,), max(0.0, deadline.left(LOOK_AGAIN_S)))
            if not woken:
                yield Call((anyone.requeue(core.run, now=core.now),))
        core.digests[step] = taken.digest
        core.step_next = max(core.step_next, step + 1)
        if self._accept is not None and len(self._kept) == taken.size:
            return list(self._kept.values())
        rows = list(taken.rows)
        rows += yield from read_rows(core.run, step, len(rows), taken.size)
        return (yield from read_rollouts(core.run, step, rows, core.result_sizes, taken.results))

    def _take(self, limit: int, *, seal: bool, size: int) -> Flow[tuple[Taken, BatchPiece | BrokerError | None]]:
        """Fills the batch. With it come the rows of the sealed batch, or with a filter those so far.

        Args:
            limit: ready tasks to look at.
            seal: seal the batch when it is full.
            size: of the batch so far.
        """
        core = self._core
        self._refuse_after_recovery()
        most = min(self._n, ROWS_PER_CALL)
        # Not when the filter has seen all rows and this only seals, and not in the middle of a large batch.
        looks = self._accept is not None and limit > 0 and self._n - size <= TAKE_LIMIT
        answer: Any = yield GatedCall(
            lambda gate: trainer.take(
                core.run, gate, self._step, self._n, limit=limit, seal=seal, short=self._short,
                rows=most if self._accept is None else 0, result_bytes=RESULT_BYTES_WITH_ROWS, now=core.now,
            ),
            then=(anyone.batch(core.run, self._step, 0, most, now=core.now),) if looks else (),
        )  # fmt: skip
        self._refuse_after_recovery()
        return (answer[0], answer[1]) if looks else (answer, None)

    def _rows(self, taken: Taken, piece: BatchPiece | BrokerError | None) -> Flow[list[RolloutRow]]:
        """All rows of the batch as it was taken, of which the first may be there."""
        rows = list(piece.rows) if isinstance(piece, BatchPiece) and piece.digest == taken.digest else []
        rows = rows[: taken.size]
        rows += yield from read_rows(self._core.run, self._step, len(rows), taken.size)
        return rows

    def _refuse_after_recovery(self) -> None:
        """A batch formed in the background ends when a recovery begins."""
        if self._core.epoch != self._epoch:
            raise Recovering(version=self._core.version)

    def _filter(self, taken: Taken, piece: BatchPiece | BrokerError | None) -> Flow[bool]:
        """Judges what is new in the open batch and discards what the user refuses.

        Answers whether something was discarded.
        """
        core = self._core
        assert self._accept is not None
        rows = yield from self._rows(taken, piece)
        # A task that was reset meanwhile may be back with other samples.
        present = {row.task: [sample.attempt_id for sample in row.samples] for row in rows}
        self._kept = {
            task: rollout
            for task, rollout in self._kept.items()
            if present.get(task) == [sample.attempt_id for sample in rollout.samples]
        }
        refused: list[str] = []
        new = [row for row in rows if row.task not in self._kept]
        for rollout in (yield from read_rollouts(core.run, self._step, new, core.result_sizes)):
            if (yield Judge(self._accept, rollout)):
                self._kept[rollout.task] = rollout
            else:
                refused.append(rollout.task)
        if refused:
            yield from core.discard(refused, "filtered")
        return bool(refused)


def next_batch(
    core: TrainerCore, step: int, n: int | None, accept: Accept | None, timeout: float | None, *, short: bool
) -> Flow[list[Rollout]]:
    """The batch of a step; n None: the config's size."""
    wanted = whole("n", core.config.batch_size if n is None else n, 1, MAX_BATCH_SIZE)
    if accept is not None and not callable(accept):
        raise BadArgument(argument="accept", given=shown(accept), expected="a function of a Rollout, or None")
    return Forming(core, step, wanted, accept, short=short).batch(Deadline(timeout))


def read_batch(run: str, step: int, rank: int, world: int, timeout: float | None) -> Flow[list[Rollout]]:
    """The shard of one rank of a sealed batch; waits until it is sealed."""
    step, world = whole("step", step, 0, 2**53 - 1), whole("world", world, 1, MAX_BATCH_SIZE)
    rank = whole("rank", rank, 0, world - 1)
    deadline, pause_s = Deadline(timeout), 0.01
    while True:
        piece: BatchPiece | BrokerError = (yield Call((anyone.batch(run, step, 0, 0),)))[0]
        if isinstance(piece, BatchPiece) and piece.sealed:
            break
        if isinstance(piece, BrokerError) and not isinstance(piece, Early):
            raise piece
        deadline.check(f"the batch of step {step}", run=run)
        yield Pause(max(0.0, deadline.left(pause_s)))
        pause_s = min(0.5, pause_s * 2)
    rows = yield from read_rows(run, step, piece.size * rank // world, piece.size * (rank + 1) // world)
    return (yield from read_rollouts(run, step, rows, ResultSizes()))
