"""What operators may do while a trainer runs: look, pause, cancel, retry, repair, purge.

The command line is made of these calls.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from broker.clients.base import BlockingClient
from broker.connections import DEFAULT_RETRY_FOR_S, DEFAULT_TIMEOUT_S, Credentials, open_transport
from broker.connections.endpoint import Endpoint
from broker.errors import BadArgument, BrokerError, ConfigMismatch, NoRun
from broker.inspection import events, verification
from broker.inspection.audit import Audit, audit
from broker.inspection.events import Event
from broker.inspection.explanation import Explanation, explain
from broker.inspection.stats import Stats, stats_of
from broker.inspection.verification import Verification
from broker.protocol import anyone, keys, scripts, task_row, trainer
from broker.protocol.ids import worker_of
from broker.protocol.parsing import text
from broker.protocol.script_call import ScriptCall
from broker.protocol.task_row import TaskRow
from broker.recovery.checkpoint import Checkpoint
from broker.recovery.foreign import ForeignCheckpoint
from broker.recovery.recover import RecoveryReport, checkpoint, find, recover_from
from broker.trainer.state import TrainerState, checked_priorities, in_pieces
from broker.values.arguments import one_or_several, path_of, seconds_of, whole
from broker.values.config_change import ConfigChange, change_fields, values_before
from broker.values.hooks import check_plain_hook
from broker.values.names import check_name
from broker.values.progress import Progress

T = TypeVar("T")

_PIECE = 500
#: Pause between two looks at the event stream, seconds.
_EVENTS_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class FunctionLibrary:
    """The scripts of a release as one function library on a server.

    Args:
        name: contains a hash of the scripts: releases with the same scripts share a library.
        server: the server that has it; in a cluster each primary has its own.
        size: of its source, in bytes.
        of_this_release: whether this release calls it.
    """

    name: str
    server: str
    size: int
    of_this_release: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """A dead or rejected task: its id, when it ended (ms of the server's clock) and why."""

    id: str
    at_ms: int
    reason: str


class Operator(BlockingClient):
    """Looks at runs and changes them, for a person or a program beside the trainer. Fences no trainer.

    Args:
        url: the server.
        retry_for_s: how long to try to reach the server, in seconds.
        timeout_s: how long the server may be silent before the connection counts as lost, in seconds.
        credentials: as `Trainer`.
    """

    def __init__(
        self,
        url: str,
        *,
        retry_for_s: float = DEFAULT_RETRY_FOR_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: Credentials | None = None,
    ) -> None:
        self.transport = open_transport(
            url,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            credentials=credentials,
            name="broker:operator",
        )
        super().__init__(self.transport)

    def runs(self) -> list[str]:
        """The names of all runs on the server."""
        return sorted(
            {run for name in self.transport.scan(keys.pattern_of_runs()) if (run := keys.run_of(name)) is not None}
        )

    def stats(self, run: str) -> Stats:
        """One consistent look at a run. Raises NoRun."""
        return stats_of(run, self._call(anyone.stats(check_name("run", run))))

    def explain(self, run: str, limit: int = 50, worker: str | None = None) -> Explanation:
        """Why the run goes on or stands still, with at most `limit` workers and tasks by name. Raises NoRun.

        Args:
            run: the run.
            limit: of the lists.
            worker: the name of a worker: the explanation lists its sessions alone.
        """
        named = "" if worker is None else check_name("worker", worker)
        return self._run(explain(self.transport.io, check_name("run", run), "", limit, named))

    def audit(
        self, run: str, *, repair: bool = False, deep: bool = False, progress: Callable[[int], None] | None = None
    ) -> Audit:
        """Recomputes the counters; deep also looks at every task, in pieces.

        Args:
            run: the run.
            repair: rewrite the counters where they differ.
            deep: look at every task, too.
            progress: called with the number of tasks looked at so far.
        """
        check_plain_hook("progress", progress)
        found = self._run(audit(self.transport.io, check_name("run", run), ""))
        problems, looked_at = list[str](), 0
        if deep:
            for piece in _pieces(self.tasks(run)):
                problems += self._call(anyone.check(run, piece))
                looked_at += len(piece)
                if progress is not None:
                    progress(looked_at)
        if repair and found.drift:
            drift = self._call(trainer.repair(run, _request()))
            return Audit(drift, True, problems, looked_at)
        return Audit(found.drift, False, problems, looked_at)

    def verify(
        self, run: str, *, keeps_config: bool = False, progress: Callable[[int], None] | None = None
    ) -> Verification:
        """Replays the event log of a run against the guarantees, and compares its end with the counters and tasks.

        Args:
            run: the run; it may be busy.
            keeps_config: the run's config was never changed: all of the log is judged by the present config.
            progress: called with the number of transitions read so far.

        Raises:
            NoRun: there is no such run.
            ConfigMismatch: the run is an admission run, which has no tasks.
        """
        check_plain_hook("progress", progress)
        if self.stats(run).admission:
            raise ConfigMismatch(field="kind", stored="admission", given="tasks")
        return verification.verify(self.transport, run, keeps_config=keeps_config, progress=progress)

    def tasks(self, run: str) -> Iterator[str]:
        """The ids of all tasks that the run knows, in no order; an id may come twice."""
        cursor = "0"
        while True:
            cursor, rows = self.transport.command(
                "HSCAN", keys.key(check_name("run", run), "tasks"), cursor, "COUNT", _PIECE
            )
            yield from (text(name) for name in rows[::2])
            cursor = text(cursor)
            if cursor == "0":
                return

    def task(self, run: str, task: str) -> TaskRow | None:
        """All that is known of one task."""
        return self._call(task_row.task(check_name("run", run), check_name("task", task)))

    def dead(self, run: str, kind: str = "dead", count: int = 100) -> list[Finished]:
        """The newest dead or rejected tasks, newest first.

        Args:
            run: the run.
            kind: `dead` or `rejected`.
            count: most tasks wanted, 0 to 1,000,000,000.
        """
        if kind not in ("dead", "rejected"):
            raise BadArgument(argument="kind", given=kind, expected="dead or rejected")
        count = whole("count", count, 0, 1_000_000_000)
        self.stats(run)
        if count == 0:
            return []
        rows = self.transport.command("ZREVRANGE", keys.key(run, kind), 0, count - 1, "WITHSCORES")
        ids = [text(name) for name in rows[::2]]
        if not ids:
            return []
        reasons = self.transport.command("HMGET", keys.key(run, "reasons"), *ids)
        return [
            Finished(name, int(float(at)), text(why or b""))
            for name, at, why in zip(ids, rows[1::2], reasons, strict=True)
        ]

    def events(self, run: str, from_id: str = "-", count: int = 100, block_s: float = 0.0) -> list[Event]:
        """The events after an id.

        Args:
            run: the run.
            from_id: read the events after this id; `-`: from the oldest that is kept.
            count: most events wanted.
            block_s: how long to wait for the first event, in seconds.
        """
        count = whole("count", count, 1, 1_000_000)
        until = time.monotonic() + (seconds_of("block_s", block_s) or 0.0)
        while True:
            found = events.read(self.transport.command, check_name("run", run), from_id, count)
            if found or time.monotonic() >= until:
                return found
            self._run(self.transport.io.pause(_EVENTS_AGAIN_S))

    def last_event_id(self, run: str) -> str:
        """Id of the newest event, or `-`."""
        return events.newest_id(self.transport.command, check_name("run", run))

    def retry(self, run: str, tasks: Iterable[str]) -> dict[str, str]:
        """Starts dead or rejected tasks over: task -> `retried`, or the state it is in."""
        return self._by_ids(run, tasks, trainer.retry)

    def cancel(self, run: str, tasks: Iterable[str]) -> dict[str, str]:
        """Takes tasks out of the run: task -> `cancelled`, or the state it is in."""
        return self._by_ids(run, tasks, trainer.cancel)

    def forget(self, run: str, tasks: Iterable[str]) -> dict[str, str]:
        """Cancels tasks, and frees their records at once: task -> `forgotten`, or the state it is in.

        Dead and rejected tasks are freed, too, and tasks in a sealed batch are not. A recovery does not bring a
        forgotten task back. If its checkpoint lists the task, it says that the task has to be enqueued again.
        """
        return self._by_ids(run, tasks, trainer.forget)

    def pause(self, run: str, mode: str = "paused") -> str:
        """Hands out no more work; with mode `draining`, only open slots of running tasks. Returns the mode before."""
        return self._call(trainer.pause(check_name("run", run), _request(), mode)).mode

    def resume(self, run: str, *, halted: bool = False) -> str:
        """Hands out work again.

        Args:
            run: the run.
            halted: ends a halt, too; without it a run that is halted stays so.

        Returns:
            What it ended, as `Trainer.resume`.
        """
        before = self._call(trainer.pause(check_name("run", run), _request(), "", halted=halted))
        return before.ended if halted else before.mode

    def prioritise(self, run: str, priorities: Mapping[str, int]) -> dict[str, str]:
        """Gives tasks that wait another priority: task -> `prioritised`, or the state it is in, or `unknown`."""
        checked = checked_priorities(priorities)

        def make(run: str, call_id: trainer.CallId, tasks: Sequence[str]) -> ScriptCall[list[str]]:
            return trainer.prioritise(run, call_id, [(task, checked[task]) for task in tasks])

        return self._by_ids(run, checked, make)

    def configure(self, run: str, **changes: Unpack[ConfigChange]) -> dict[str, Any]:
        """Changes the config of a run that goes on, as `Trainer.configure` says. Its trainer is not fenced.

        The trainer learns a new batch size at its next `advance`.
        """
        return values_before(self._call(trainer.configure(check_name("run", run), _request(), change_fields(changes))))

    def finish(self, run: str) -> int:
        """The run is over, as `Trainer.finish` says. Returns how many tasks are left."""
        return self._call(trainer.finish(check_name("run", run), _request())).left

    def readmit(self, run: str, workers: str | Iterable[str] = ()) -> list[str]:
        """Ends quarantines before their time.

        Args:
            run: the run.
            workers: names of workers, or ids of sessions; none: all that are quarantined.

        Returns:
            The sessions that get work again.
        """
        names: list[Any] = list(one_or_several("workers", workers, str, "names of workers, or one"))
        for name in names:
            check_name("worker", worker_of(name) if isinstance(name, str) else name)
        return self._call(trainer.readmit(check_name("run", run), _request(), names))

    def requeue(self, run: str, limit: int = 100) -> int:
        """Takes back what is due: leases that ran out, time-outs, retries. Returns how many."""
        return self._call(anyone.requeue(check_name("run", run), whole("limit", limit, 1, 1000)))

    def purge(self, run: str, progress: Callable[[int], None] | None = None) -> int:
        """Deletes a run: first its state, so that all its clients are refused, then its other keys in pieces.

        Returns:
            How many keys were deleted.

        Raises:
            NoRun: there is no such run.
        """
        check_plain_hook("progress", progress)
        if self.transport.command("DEL", keys.state(check_name("run", run))) == 0 and not any(
            self.transport.scan(keys.pattern_of_run(run))
        ):
            raise NoRun(run=run)
        deleted = 1
        for piece in _pieces(self.transport.scan(keys.pattern_of_run(run))):
            deleted += self.transport.command("UNLINK", *piece)
            if progress is not None:
                progress(deleted)
        return deleted

    def libraries(self) -> list[FunctionLibrary]:
        """The broker's function libraries of all releases, on each primary. Servers older than Redis 7 have none.

        Raises:
            UnsupportedServer: the server has the functions of Redis 7, but not the command to list them.
            AuthenticationFailed: the user may not call `FUNCTION LIST`.
        """
        if not self.transport.server_info().supports_shebang:
            return []
        return [library for server in self.transport.primaries() for library in self._libraries_at(server)]

    def delete_old_libraries(self) -> list[FunctionLibrary]:
        """Deletes the function libraries of other releases, on each primary. Libraries of other programs stay.

        Nothing is lost: a client whose library is gone loads it again, and repeats its call.

        Returns:
            The libraries that were deleted.

        Raises:
            UnsupportedServer, AuthenticationFailed: as `libraries`.
        """
        deleted: list[FunctionLibrary] = []
        if not self.transport.server_info().supports_shebang:
            return deleted
        for server in self.transport.primaries():
            for library in self._libraries_at(server):
                if not library.of_this_release:
                    self._delete_library(library.name, server)
                    deleted.append(library)
        return deleted

    def _delete_library(self, name: str, server: Endpoint | None) -> None:
        try:
            self.transport.pipeline([("FUNCTION", "DELETE", name)], server)
        except BrokerError:
            if any(library.name == name for library in self._libraries_at(server)):
                raise  # else the library is gone: deleted by another operator, or by this call, whose answer was lost

    def _libraries_at(self, server: Endpoint | None) -> Iterator[FunctionLibrary]:
        ours = ("FUNCTION", "LIST", "LIBRARYNAME", "broker_*", "WITHCODE")
        (found,) = self.transport.pipeline([ours], server)
        for fields in found:
            of: dict[str, Any] = {text(fields[i]): fields[i + 1] for i in range(0, len(fields), 2)}
            name = text(of["library_name"])
            if scripts.is_library_name(name):
                where = self.transport.url if server is None else str(server)
                yield FunctionLibrary(name, where, len(of["library_code"]), name == scripts.library().name)

    def checkpoint(
        self, run: str, path: str | os.PathLike[str], *, full: bool = False, progress: Progress | None = None
    ) -> Checkpoint:
        """Writes a checkpoint of the run as it is, and commits it; a running trainer is not fenced.

        The file has no weights beside it. It does not count among `keep_checkpoints`, and the run keeps nothing for it.
        A recovery can use it as long as its version is not below the floor.

        Args:
            run: the run.
            path: what to call the file; `path` of the returned checkpoint is the name that it got.
            full: also write the unfinished tasks themselves, in a second file beside it.
            progress: called with the number of tasks looked at so far, and about how many there are.

        Raises:
            CheckpointError: the file could not be written.
            ConfigMismatch: the run is an admission run, which has nothing that a checkpoint could hold.
            Early: the run's version or trainer changed meanwhile: call it again, or pause the run.
            Recovering: the run is being recovered.
            Gone, Undone: the trainer committed newer checkpoints meanwhile, or a recovery undid this one.
        """
        check_plain_hook("progress", progress)
        state = TrainerState(self.transport.io, run, None, update=False, clock=None)
        if self.stats(run).admission:
            raise ConfigMismatch(field="kind", stored="admission", given="tasks")
        return self._run(checkpoint(state, path_of("path", path), full=full, progress=progress, call_id=_request()))

    def source(self, run: str, source: str | os.PathLike[str]) -> Checkpoint | ForeignCheckpoint:
        """The checkpoint that a recovery from a path would use, read and checked. Raises CheckpointError."""
        state = TrainerState(self.transport.io, run, None, update=False, clock=None)
        found = self._run(find(state, source))
        assert found is not None
        return found

    def recover(
        self,
        run: str,
        source: Checkpoint | str | os.PathLike[str] | None = None,
        *,
        version: int | None = None,
        in_flight: str = "keep",
        allow_loss: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> RecoveryReport:
        """Takes a run to a checkpoint or version, as `Trainer.recover`.

        A running trainer is fenced, except by a dry run.
        """
        check_plain_hook("progress", progress)
        state = TrainerState(self.transport.io, run, None, update=False, clock=None)
        call = recover_from(
            state,
            source,
            version,
            in_flight=in_flight,
            missing_ok=False,
            allow_loss=allow_loss,
            blob=None,
            dry_run=dry_run,
            progress=progress,
        )
        return self._run(call)

    def _by_ids(self, run: str, tasks: Iterable[str], make: Callable[..., ScriptCall[list[str]]]) -> dict[str, str]:
        run = check_name("run", run)
        return self._run(in_pieces(tasks, lambda piece: self.transport.io.call(make(run, _request(), tasks=piece))))

    def _call(self, call: ScriptCall[T]) -> T:
        return self._run(self.transport.io.call(call))

    def close(self) -> None:
        """Closes the connections."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _request() -> trainer.CallId:
    return trainer.operator_call_id(secrets.token_hex(12))


def _pieces(names: Iterable[str]) -> Iterator[list[str]]:
    source = iter(names)
    while piece := list(islice(source, _PIECE)):
        yield piece
