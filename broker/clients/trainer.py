"""The synchronous trainer."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from broker.clients.base import BlockingClient
from broker.connections import (
    DEFAULT_RETRY_FOR_S,
    DEFAULT_TIMEOUT_S,
    END_WITHIN_S,
    Credentials,
    open_transport,
    url_or_variable,
)
from broker.connections.background import in_background
from broker.errors import BadArgument, BrokerError
from broker.protocol import anyone
from broker.trainer.batches import next_batch, read_batch
from broker.trainer.draws import DrawBlocking
from broker.trainer.enqueued import Enqueued
from broker.trainer.feeder import feeder_of
from broker.trainer.filter import Accept
from broker.trainer.pulse import Pulse
from broker.trainer.saving import BatchLoop, Saving
from broker.trainer.state import TrainerState
from broker.trainer.wait_log import timed_out
from broker.values.arguments import path_of
from broker.values.config import RunConfig
from broker.values.config_change import ConfigChange, change_fields
from broker.values.hooks import check_plain_hook
from broker.values.policy import Policy
from broker.values.rollout import Rollout
from broker.values.task import Task

if TYPE_CHECKING:
    from broker.inspection.audit import Audit
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.recovery.checkpoint import Checkpoint
    from broker.recovery.recover import RecoveryReport
    from broker.values.progress import Progress

_FORKED = (
    "this trainer was opened before a fork, and its calls belong to that process: open another one in the child, "
    "or one with attach=True"
)


class Trainer(BlockingClient):
    """The trainer of a run: enqueues tasks, takes batches, advances the version.

    Opening fences the trainer before. Several threads may use one trainer: the calls that change the run are sent
    one after the other. A call in a forked child is refused, and so is a signal handler's in the middle of another.

    Args:
        url: the server, e.g. `redis://head:6379/0`; see the README for the kinds. None: the environment variable
            BROKER_URL.
        run: name of the run.
        config: how the run works; a run that does not exist is created. None: the run must exist. Of a run that
            exists, only the fields that the config was given are compared.
        update: change the stored fields that differ, instead of refusing; all others stay as they are.
        attach: only read (ranks of a data-parallel trainer): no fence, and no call that changes the run.
        clock: injected time in milliseconds, for tests.
        credentials: called at each new connection; returns user and password, and perhaps for how many seconds they
            are valid. For tokens that are replaced; a thread of the trainer may call it. None: the URL's are used.
        timeout_s: how long the server may be silent before the connection counts as lost, in seconds.
        retry_for_s: for how long after its first try a call may be tried again, in seconds; `math.inf`: for ever.

    Raises:
        NoRun: there is no such run, and no config to create it with.
        ConfigMismatch: the stored config differs in a field that was given.
        ServerUnavailable: no answer.
    """

    def __init__(
        self,
        url: str | None = None,
        run: str = "",
        config: RunConfig | None = None,
        *,
        update: bool = False,
        attach: bool = False,
        clock: Callable[[], int] | None = None,
        credentials: Credentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
    ) -> None:
        url = url_or_variable(url)
        transport = open_transport(
            url,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            credentials=credentials,
            name=f"broker:{'reader' if attach else 'trainer'}:{run}",
        )
        super().__init__(transport)
        self._attached = attach
        self._ahead: tuple[int, Future[list[Rollout]]] | None = None
        self._thread: threading.Thread | None = None  # that forms it
        self._pulse: Pulse | None = None
        try:
            self._state = TrainerState(transport.io, run, config, update=update, clock=clock)
            self._run(self._state.refresh() if attach else self._state.open())
            if not attach:
                opened = functools.partial(
                    open_transport, url, retry_for_s=0.0, credentials=credentials, name=f"broker:pulse:{run}"
                )
                self._pulse = Pulse(self, self._state, opened)
                self._pulse.start()
        except BaseException:
            transport.close()
            raise

    @property
    def run(self) -> str:
        """Name of the run."""
        return self._state.run

    @property
    def version(self) -> int:
        """The current version of the policy, as this trainer knows it."""
        return self._state.version

    @property
    def step_next(self) -> int:
        """The first step whose batch is not sealed, as this trainer knows it."""
        return self._state.step_next

    @property
    def epoch(self) -> str:
        """This trainer's epoch, `<number>.<token>`."""
        return self._state.epoch

    @property
    def policy(self) -> Policy:
        """The current policy, as this trainer knows it: its version, and the epoch that made it."""
        return Policy(version=self._state.version, epoch=self._state.made_by)

    @property
    def config(self) -> RunConfig:
        """The run's stored config."""
        return self._state.config

    @property
    def cursor(self) -> Any:
        """The data loader's position that was stored last, or None."""
        return self._state.cursor

    def enqueue(self, tasks: Task | Iterable[Task], cursor: Any = None, *, again: bool = False) -> Enqueued:
        """Adds tasks; those whose id the run knows already are left alone and reported.

        A call that ends with an error may have added some of them: its field `added`, and a note, say how many. Give
        all of them again then. An iterator, such as a generator, cannot be given again: make a new one.

        Args:
            tasks: one task or any number of them; sent in pieces as they come.
            cursor: the data loader's position after these tasks (anything JSON can hold), stored with the last piece.
            again: tasks that are dead or rejected start over with the payload and samples that are given now, also when
                their records were freed since (`max_finished`). Tasks that were trained on stay as they are.

        Returns:
            How many were added, and the state of each task that the run knew already.

        Raises:
            TooBig: a payload is larger than `max_payload_bytes`.
            BadArgument: one of the tasks is not a Task; or they come from an iterator that an earlier call, which
                failed, has left in the middle.
            Fenced: another trainer has taken over.
        """
        self._must_lead("enqueue")
        return self._run(self._state.enqueue(tasks, cursor, again=again))

    def feed(self, tasks: Iterable[Task | Iterable[Task]], ahead: int | None = None, cursor: Any = None) -> None:
        """Enqueues a data loader's tasks in the background, as the run needs them, and stores the loader's position.

        While the feeder works, `next_batch` waits for it: a slow loader makes no small batch. At the loader's end the
        tasks that are left come as a short batch, and then `Exhausted` is raised. An error of the loader is raised by
        `next_batch`. A trainer that opens the run again calls `feed` with the same tasks: they go on where they stood.

        Args:
            tasks: any iterable of tasks or of batches of tasks, such as a `DataLoader` whose `collate_fn` makes tasks.
            ahead: how many tasks are to wait in the run, and no more; None: four batches. A batch of the loader comes
                whole.
            cursor: what knows the loader's position: an object with `state_dict` and `load_state_dict`, whose state
                JSON can hold, in at most 64 KiB. None: the loader itself, if it has both; else the items are counted,
                and the first ones skipped by a program that starts again. Several feeds of one program count on; each
                needs task ids of its own. After an error of the loader, feed the same tasks again from the first one
                on, and after `recover` all that the program has fed: what is stored is skipped.

        Raises:
            BadArgument: a feeder is at work; or the stored cursor belongs to another kind of position.
            Fenced: another trainer has taken over.
        """
        self._must_lead("feed")
        feeder = feeder_of(self._state, tasks, cursor, ahead)
        draw = DrawBlocking(iter(tasks))
        self._run(feeder.begin())
        try:
            in_background(lambda: self._run(feeder.work(draw)), "broker-feeder")
        except BaseException:
            feeder.stop()
            raise

    def next_batch(
        self,
        n: int | None = None,
        *,
        accept: Accept | None = None,
        prefetch: bool = False,
        timeout: float | None = None,
        short: bool = False,
    ) -> list[Rollout]:
        """Waits for the batch of the current version. Called again before `advance`, it returns the same batch.

        Args:
            n: rollouts wanted; None: the config's consumer_batch_size.
            accept: a filter, called once for each rollout. Rollouts that it refuses are discarded and replaced. The
                client keeps the answers while this trainer forms the batch, also after a wait that timed out or
                failed. It forgets the answer about a rollout whose samples are gone, and all answers in a recovery. If
                another filter is given, that filter judges all rollouts again. Two filters are the same if they have
                the same code and use the same values: a lambda that each call makes anew may be the same filter. A
                batch that was sealed before, by this trainer or its predecessor, is not judged again.
            prefetch: form and read the next batch in the background, with the same n and accept. Another call before
                `advance` returns that next batch.
            timeout: how long to wait, in seconds; None: as long as it takes.
            short: when fewer than n tasks are left in the run, take all that are left.

        Returns:
            The rollouts, oldest first. This is the order of the sealed batch, the same for all its readers.

        Raises:
            Exhausted: fewer than n tasks are left in the run; with short: no task is left.
            RunHalted: the run is halted, since too many attempts failed without an accepted result between them.
            WaitTimeout: the time is over; the rollouts so far are kept for the next call.
            TooMany: n is more than could ever be ready at once.
            Fenced, Rewound: this trainer may not go on.
        """
        check_plain_hook("accept", accept)
        self._must_lead("next_batch")
        with self._state.last_batch.waiting():
            self._run(self._state.settle())
            step = self._state.step_to_deliver(prefetch=prefetch)
            batch = self._from_ahead(step, timeout)
            if batch is None:
                batch = self._run(next_batch(self._state, step, n, accept, timeout, short=short))
        if prefetch and step == self._state.version and self._state.config.max_staleness != 0:
            self._start_ahead(step + 1, n, accept, short=short)
        self._state.deliver(step, batch)  # last: a caller that is interrupted before it gets this batch again
        return batch

    def batches(
        self,
        n: int | None = None,
        *,
        accept: Accept | None = None,
        prefetch: bool = False,
        timeout: float | None = None,
        short: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int | None = None,
        save: Callable[[int], Any] | None = None,
        blob: Callable[[int], bytes] | None = None,
    ) -> Iterator[list[Rollout]]:
        """Yields each batch until no task is left, and advances after the body of the loop.

        Leaving the loop, by `break` or an error, does not advance: the next loop begins with the same batch. The
        weights and the checkpoint are saved after an advance and before the next batch, so that they agree. The body
        calls neither `advance` nor `next_batch`.

        Args:
            n: as in `next_batch`, and so are `accept`, `prefetch`, `timeout` and `short`.
            accept: as in `next_batch`.
            prefetch: as in `next_batch`.
            timeout: as in `next_batch`, for each batch.
            short: as in `next_batch`.
            checkpoint: the path of the checkpoint, as in `checkpoint`.
            every: save after each version that this number divides, and at the end; None: after each version.
            save: called with a version before its checkpoint is made: saves the weights of that version.
            blob: called with a version before it begins: what workers get with their claims, as in `advance`.

        Raises:
            Exhausted: some tasks are left, fewer than n. Without `short` they make no batch.
            BadArgument: an argument cannot be used; also what `next_batch`, `advance` and `checkpoint` raise.
        """
        check_plain_hook("accept", accept)
        check_plain_hook("save", save)
        check_plain_hook("blob", blob)
        self._must_lead("batches")
        form = functools.partial(self.next_batch, n, accept=accept, prefetch=prefetch, timeout=timeout, short=short)
        batches = BatchLoop(self, self._transport.io.ask, form, Saving(checkpoint, every, save), blob)

        def loop() -> Iterator[list[Rollout]]:
            self._state.deliver_again()
            while (batch := self._run(batches.next())) is not None:
                yield batch

        return loop()

    def _start_ahead(self, step: int, n: int | None, accept: Accept | None, *, short: bool) -> None:
        if self._ahead is not None and self._ahead[0] == step:
            return
        before = self._thread

        def form() -> list[Rollout]:
            if before is not None:  # the thread of a dropped batch may not have ended yet
                before.join()
            return self._run(next_batch(self._state, step, n, accept, None, short=short))

        future, self._thread = in_background(form, "broker-prefetch")
        self._ahead = (step, future)

    def _from_ahead(self, step: int, timeout: float | None) -> list[Rollout] | None:
        """The batch that was formed in the background.

        None: no batch is formed in the background, or forming it failed: the caller tries again.
        """
        if self._ahead is None or self._ahead[0] != step:
            return None
        future = self._ahead[1]
        try:
            batch = future.result(timeout)
        except TimeoutError:
            if not future.done():
                raise self._run(timed_out(self._state.io, self.run, step, timeout, self._state.now)) from None
            batch = None
        except BrokerError:
            batch = None
        except BaseException:  # the filter's error is raised once, then the batch is formed again
            if future.done():
                self._ahead = None
            raise
        self._ahead = None
        return batch

    def _drop_ahead(self) -> None:
        """Drops the batch that is formed in the background: a recovery undoes its step. The thread ends by itself."""
        self._ahead = None
        self._transport.interrupt()

    def read_batch(self, step: int, rank: int = 0, world: int = 1, timeout: float | None = None) -> list[Rollout]:
        """The shard of one rank of a sealed batch; waits until the batch is sealed. Also for attached trainers.

        Args:
            step: the step that trains the batch.
            rank: this rank, 0 <= rank < world.
            world: number of ranks. Their shards are contiguous, and together they are the batch.
            timeout: how long to wait, in seconds.

        Raises:
            Gone: the batch is not kept any more.
            RunHalted: the run is halted, and the trainer that forms this batch waits for it in vain.
            WaitTimeout: the batch was not sealed in time.
        """
        return self._run(read_batch(self._state.io, self._state.run, step, rank, world, timeout))

    def discard(self, tasks: Iterable[str], reason: str = "discarded") -> dict[str, str]:
        """Takes rollouts out for good. Returns for each task `discarded`, or the state it is in."""
        self._must_lead("discard")
        return self._run(self._state.discard(tasks, reason))

    def cancel(self, tasks: Iterable[str]) -> dict[str, str]:
        """Takes tasks out of the run, also while workers hold them. Returns for each `cancelled`, or its state."""
        self._must_lead("cancel")
        return self._run(self._state.cancel(tasks))

    def retry(self, tasks: Iterable[str]) -> dict[str, str]:
        """Starts dead or rejected tasks over. Returns for each `retried`, or the state it is in."""
        self._must_lead("retry")
        return self._run(self._state.retry(tasks))

    def advance(self, blob: bytes | None = None, *, allow_empty: bool = False) -> int:
        """Says that the batch is trained on; opens capacity for the next one.

        An advance may end without an answer (no server, an interrupt). The next call of this trainer then makes sure
        of it first; a repeated advance returns what the first would have returned.

        Args:
            blob: at most 1 MiB that workers get with their next claims, for example where the new weights are.
            allow_empty: advance although no batch was taken.

        Returns:
            The new version.

        Raises:
            Early: the batch of this step was not taken.
            DigestMismatch: the server's batch is not the one that this trainer took.
        """
        self._must_lead("advance")
        return self._run(self._state.advance(blob, allow_empty=allow_empty))

    def settle(self) -> int:
        """Makes sure of an advance that ended without an answer, as the next call would. Returns the version."""
        self._must_lead("settle")
        return self._run(self._state.settle())

    def checkpoint(
        self,
        path: str | os.PathLike[str],
        *,
        full: bool = False,
        progress: Progress | None = None,
        weights: int | None = None,
    ) -> Checkpoint:
        """Writes the broker's part of a training checkpoint, whole or not at all, and commits it.

        Call it after `advance` and before the next batch, beside the weights that were just trained. While a batch is
        handed out and not advanced, it is refused unless `weights` says which weights these are.

        The file is written beside the path as `<path>.<number>.e<epoch>.v<version>`. The path becomes a link to the
        file, where links can be made. Older files that no recovery can use any more are deleted. The run frees
        everything that no kept checkpoint needs.

        Args:
            path: what to call it; save it beside the weights of this version.
            full: also write the unfinished tasks themselves, in a second file beside it, so that even an empty
                server can be refilled.
            progress: called with the number of tasks looked at so far, and about how many there are.
            weights: the version of the weights beside it, which must be the run's; None: the caller does not say.

        Returns:
            The checkpoint; its `path` is the file.

        Raises:
            BadArgument: `weights` is another version than the run's, or is needed.
            CheckpointError: the file could not be written; nothing is committed.
            Fenced: another trainer has taken over; its files are as they were.
            Early: the version changed meanwhile, by another thread.
            Recovering, Rewound: the run is being recovered, or its server lost writes; nothing is committed.
        """
        check_plain_hook("progress", progress)
        self._must_lead("checkpoint")
        from broker.recovery.recover import checkpoint

        made = checkpoint(self._state, path_of("path", path), full=full, progress=progress, weights=weights)
        return self._run(made)

    def recover(
        self,
        source: Checkpoint | str | os.PathLike[str] | None = None,
        *,
        version: int | None = None,
        in_flight: str = "keep",
        missing_ok: bool = False,
        allow_loss: bool = False,
        blob: bytes | Callable[[int], bytes | None] | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> RecoveryReport:
        """Takes the run back, or forward, to the state that a checkpoint describes.

        Afterwards capacity is right, no rollout of the lost future comes, and each task is trained once in the
        history that survives. A call that was interrupted may be made again. Workers need not be restarted.

        Args:
            source: a checkpoint or its path, or the path of a file or folder of AReaL, Hugging Face, Megatron or verl.
                Of several checkpoints of a path, the newest that no later recovery undid is taken. The name of one of
                their files stands for that file alone. None without a version: version 0.
            version: a version alone, without a list of tasks.
            in_flight: `keep` attempts in flight whose policy survives, or `requeue` them all.
            missing_ok: a path without any file means version 0.
            allow_loss: go below the floor although tasks were freed.
            blob: what workers get with their claims at that version, or a function that is called with the version
                before anything is changed, and returns it; None: the checkpoint's.
            dry_run: report what would happen and change nothing.
            progress: called with the number of tasks dealt with so far, and about how many there are.

        Returns:
            What became of the tasks, and in `source` the file that was taken.

        Raises:
            CheckpointError: the source cannot be used; nothing was changed. When the newest file is damaged, the error
                names another, which belongs to other weights and is therefore not taken by itself.
            Gone: the version is below the floor.
            Undone: a later recovery undid the version.
            Fenced: another trainer took over meanwhile.
        """
        check_plain_hook("progress", progress)
        if callable(blob):
            check_plain_hook("blob", blob)
        if not dry_run:
            self._must_lead("recover")
            self._drop_ahead()
        from broker.recovery.recover import recover_from

        call = recover_from(
            self._state,
            source,
            version,
            in_flight=in_flight,
            missing_ok=missing_ok,
            allow_loss=allow_loss,
            blob=blob,
            dry_run=dry_run,
            progress=progress,
        )
        return self._run(call)

    def pause(self) -> str:
        """Hands out no more work; submissions go on. Returns the mode before."""
        self._must_lead("pause")
        return self._run(self._state.pause("paused"))

    def drain(self) -> str:
        """Starts no more tasks; running tasks are finished. Returns the mode before."""
        self._must_lead("drain")
        return self._run(self._state.pause("draining"))

    def resume(self) -> str:
        """Hands out work again: ends a pause, and a halt.

        What failed before the halt is due after the longest pause of a retry, so that other tasks go first.

        Returns:
            What it ended: `paused`, `draining`, `halted`, `halted and paused`, `halted and draining`, or "".
        """
        self._must_lead("resume")
        return self._run(self._state.resume())

    def prioritise(self, priorities: Mapping[str, int]) -> dict[str, str]:
        """Gives tasks that wait another priority. Tasks of equal priority stay in the order of their enqueue.

        Args:
            priorities: task -> priority, -1000 to 1000; larger ones are started first.

        Returns:
            Task -> `prioritised`; or, where it was not changed, the state it is in, or `unknown`.
        """
        self._must_lead("prioritise")
        return self._run(self._state.prioritise(priorities))

    def configure(self, **changes: Unpack[ConfigChange]) -> dict[str, Any]:
        """Changes the config of the run while it runs; nobody is fenced.

        When a change of each field takes effect is in `broker.values.config_change.TAKES_EFFECT` and in
        docs/operations.md. No field is refused.

        Args:
            changes: fields of `RunConfig` with their new values.

        Returns:
            The fields that changed, with their values before. If nobody ever gave max_concurrent_rollouts, a new batch
            size changes it, too.

        Raises:
            BadArgument: a field is unknown, or its value is out of range.
            Recovering: a recovery is under way.
        """
        self._must_lead("configure")
        return self._run(self._state.configure(change_fields(changes)))

    def finish(self) -> int:
        """The run is over: workers' loops end by themselves, and no further batch is formed.

        Batches that are sealed may still be trained, and results of attempts that are held are still accepted. Closing
        a trainer does not finish a run. `enqueue`, `feed`, `retry` and `recover` open a finished run again.

        Returns:
            How many tasks are left: waiting, running or ready. They stay as they are.
        """
        self._must_lead("finish")
        return self._run(self._state.finish())

    def requeue(self, limit: int = 100) -> int:
        """Takes back what is due: leases that ran out, time-outs, retries. Returns how many."""
        return self._run(self._state.requeue(limit))

    def stats(self) -> Stats:
        """One consistent look at the run; also brings `version` and `step_next` of an attached trainer up to date."""
        stored = self._run(
            self._state.refresh()
            if self._attached
            else self._state.io.call(anyone.stats(self.run, now=self._state.now))
        )
        from broker.inspection.stats import stats_of

        return stats_of(self.run, stored)

    def metrics(self) -> dict[str, float]:
        """The run's numbers in one flat dict, for W&B, TensorBoard or MLflow: `broker/tasks/ready` and others.

        Those of the batch that this trainer got last are there too: `broker/batch/staleness_mean` and others.
        docs/monitoring.md lists them.
        """
        from broker.inspection.metrics import flat

        return flat(self.stats(), self._state.last_batch.numbers)

    def capacity(self) -> int:
        """How many tasks may be started now; may be negative."""
        return self.stats().capacity

    def explain(self) -> Explanation:
        """Why the run goes on or stands still.

        Names the term of the capacity formula that binds, who holds the slots, and what is due next.
        """
        from broker.inspection.explanation import explain

        return self._run(explain(self._state.io, self.run, self._state.now))

    def audit(self, *, repair: bool = False) -> Audit:
        """Recomputes the counters from the structures; repair also rewrites them."""
        from broker.inspection.audit import Audit, audit

        if repair:
            self._must_lead("audit with repair")
            return Audit(self._run(self._state.repair()), repaired=True)
        return self._run(audit(self._state.io, self.run, self._state.now))

    def _must_lead(self, what: str) -> None:
        if self._transport.is_forked:  # the thread that it would wait for is the parent's
            raise BadArgument(problem=_FORKED)
        if self._attached:
            raise BadArgument(
                argument="attach", given="True", expected=f"a trainer of its own for {what}; attached ones only read"
            )

    def close(self) -> None:
        """Closes the connections. The run stays as it is, and another trainer may open it."""
        self._state.fed.stop()
        if self._pulse is not None:
            self._pulse.stop(END_WITHIN_S)
        self._transport.close()
        if self._thread is not None:
            self._thread.join(END_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
