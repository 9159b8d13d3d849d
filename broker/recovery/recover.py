"""Makes checkpoints, and recovers from them."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.errors import BadArgument, CheckpointError, Early, Fenced, Recovering, Rewound
from broker.inspection.capacity import terms
from broker.protocol import anyone, keys, recovery, trainer
from broker.protocol.parsing import text
from broker.protocol.recovery import Begin, Begun, Recovered, Swept
from broker.protocol.task_record import TaskRecord, task_record
from broker.protocol.trainer import NewTask
from broker.recovery.checkpoint import MAX_VERSION, Checkpoint, refuse_all_but_files, write_checkpoint
from broker.recovery.checkpoint_files import History, Member, member_of, named, next_number, point_to, tidy
from broker.recovery.find_checkpoint import check_in_flight, exists, load_source
from broker.recovery.foreign import ForeignCheckpoint
from broker.recovery.revivable import may_live_again
from broker.recovery.tasks_file import TasksWriter, read_tasks
from broker.trainer.state import TrainerState
from broker.values.arguments import bytes_of, whole
from broker.values.config import RunConfig
from broker.values.progress import Progress

#: About how many tasks one HSCAN returns, and how many one sweep gets.
SCAN_COUNT = 500
SWEEP_TASKS = 64
#: How many versions back policies are written into a checkpoint.
POLICIES_KEPT = 1000

_log = logging.getLogger(__name__)

_CAUSES = ("lost_step", "lost_policy", "bytes_gone", "discarded", "dead", "in_flight", "no_place")


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What a recovery did, or in a dry run would do.

    Args:
        run: the run.
        version_from: version before.
        version_to: version now.
        epoch: the new epoch; empty in a preview.
        requeued: tasks that start over, by cause: `lost_step` (in a batch of a lost step, its results not usable),
            `lost_policy` (a sample's policy is not on the surviving history), `bytes_gone`, `discarded` and `dead`
            (ended in a lost step), `in_flight` (revoked as asked), `no_place` (`on_stale="wait"`: more came back from
            lost steps than the batches from here on can hold in time; a dry run does not count these).
        ready_again: tasks of lost steps whose results are good and wait to be trained again.
        finished: tasks that are finished by the checkpoint, but not by a server that lost writes.
        dropped: tasks that the checkpoint does not know, enqueued before this recovery on a server that had lost its
            last writes. The data loader brings those again that are not before the cursor.
        results_dropped: samples whose results are not used.
        results_kept: samples whose results still count.
        attempts_revoked: attempts in flight that lost their slots.
        attempts_kept: attempts in flight that keep their slots.
        consumed_by_lost_steps: tasks that the lost steps had trained on.
        accepted: the counter, before and after.
        running: the counter, before and after.
        capacity: before and after.
        cursor: the position from which the data loader goes on.
        missing: ids of unfinished tasks that the server does not know; the caller enqueues them again. Until then, or
            until they are cancelled, `next_batch` counts them as left in the run.
        restored: how many unfinished tasks that the server did not know were put back from a full checkpoint.
        source: the checkpoint file that was used; None: no file, or not one of the broker's.
        source_by_operator: whether an operator wrote that file: the trainer saved no weights beside it.
    """

    run: str
    version_from: int
    version_to: int
    epoch: str
    requeued: dict[str, int]
    ready_again: int
    finished: int
    results_dropped: int
    results_kept: int
    attempts_revoked: int
    attempts_kept: int
    consumed_by_lost_steps: int
    accepted: tuple[int, int]
    running: tuple[int, int]
    capacity: tuple[int, int]
    cursor: Any
    missing: list[str] = field(default_factory=list[str])
    restored: int = 0
    dropped: int = 0
    source: str | None = None
    source_by_operator: bool = False


async def checkpoint(
    state: TrainerState,
    path: Path,
    *,
    full: bool,
    progress: Progress | None,
    call_id: trainer.CallId | None = None,
    weights: int | None = None,
) -> Checkpoint:
    """Writes a checkpoint of the run, then commits it and frees what no kept checkpoint needs.

    Each file has another name, so that a trainer that was replaced meanwhile overwrites no file of its successor.
    Files are deleted after the commit only.

    Args:
        state: the trainer.
        path: the user's name for the file; it becomes a link to the file.
        full: also write the tasks.
        progress: called as the scan goes on.
        call_id: an operator's request to commit with; None: one of the trainer's numbered calls.
        weights: the version of the weights that the trainer saves beside it; None: it does not say.
    """
    if call_id is None:
        await state.settle()
        state.check_weights(weights)
    if member_of(path) is not None:
        raise CheckpointError(
            path=str(path), problem="could not be written: this is the name of one checkpoint, give the path before it"
        )
    await state.io.blocking(lambda: refuse_all_but_files(path))
    # The number is chosen before `collect` checks that this trainer still holds the run. So the file of a successor has
    # a larger number, or a later epoch.
    number: int = await state.io.blocking(lambda: next_number(path))

    def place(version: int, epoch: str) -> Member:
        return named(path, number, epoch, version, by_operator=call_id is not None)

    try:
        made, mine = await collect(state, place, progress, full=full)
        await state.io.blocking(lambda: write_checkpoint(made, mine.path))
    except CheckpointError:
        if state.epoch:  # a successor has deleted the file that this trainer was about to commit
            stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
            _must_hold(state, stored, state.numbered.last)
        raise
    floor: int
    if call_id is None:
        floor = await state.numbered.call(lambda own: recovery.commit(state.run, own, made.version, now=state.now))
    else:
        floor = await state.io.call(recovery.commit(state.run, call_id, made.version, made.epoch, now=state.now))
    await state.io.blocking(lambda: point_to(path, mine))
    await state.io.blocking(lambda: tidy(path, mine, floor))
    while await state.trim():
        pass
    return made


async def collect(
    state: TrainerState, place: Callable[[int, str], Member], progress: Progress | None, *, full: bool
) -> tuple[Checkpoint, Member]:
    """Reads the content of a checkpoint. The version must not change meanwhile; only the trainer changes it.

    Args:
        state: the trainer.
        place: the file for a version and an epoch.
        progress: called as the scan goes on.
        full: write its tasks file.

    Returns:
        The checkpoint, and the file to write it to.
    """
    calls = state.numbered.last
    stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
    _must_hold(state, stored, calls)
    version = int(stored["version"])
    blob: bytes | None = (await state.io.command("HGET", keys.state(state.run), "blob")) or None
    policies: list[bytes] = await state.io.command("HGETALL", keys.key(state.run, "policies"))
    made_by = {int(policies[i]): text(policies[i + 1]) for i in range(0, len(policies), 2)}
    mine = place(version, stored["epoch"])
    writer: TasksWriter | None = (await state.io.blocking(lambda: TasksWriter(mine.path))) if full else None
    unfinished: set[str] = set()
    awaited = await _awaited(state, stored)
    dead: set[str] = set()
    try:
        seen, total = 0, int(stored["n_tasks"])
        cursor = "0"
        while True:
            cursor, rows = await _scan(state, cursor)
            fresh = {
                task: record for task, record in rows.items() if record.unfinished(version) and task not in unfinished
            }
            unfinished.update(fresh)
            dead.update(task for task, record in rows.items() if record.state == "X")
            await _add_tasks(state, writer, fresh)
            seen += len(rows)
            if progress is not None:
                await state.io.ask("progress", progress, min(seen, total), total)
            if cursor == "0":
                break
        after: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
        _must_hold(state, after, calls)
        _must_be_as_before(state.run, stored, after)
        revivable = await may_live_again(state.io, state.run, dead - unfinished, stored, after)
        unfinished.update(revivable, awaited)
        await _add_tasks(state, writer, revivable)
        tasks_file = (await state.io.blocking(writer.finish)) if writer is not None else None
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    made = Checkpoint(
        run=state.run,
        version=version,
        epoch=stored["epoch"],
        order=int(stored["order_seq"]),
        config=RunConfig.from_fields(stored),
        counters={name: int(stored[name]) for name in ("accepted", "running", "capacity")},
        cursor=json.loads(stored["cursor"]) if stored.get("cursor") else None,
        blob=blob,
        recoveries=stored["recoveries"],
        lineage=stored.get("lineage", ""),
        policies={v: epoch for v, epoch in made_by.items() if version - POLICIES_KEPT <= v <= version},
        unfinished=frozenset(unfinished),
        tasks_file=tasks_file,
        path=mine.path,
        number=mine.number,
        by_operator=mine.by_operator,
    )
    return made, mine


def _must_be_as_before(run: str, before: dict[str, str], after: dict[str, str]) -> None:
    """Raises Early if the version or the trainer changed while the checkpoint was read."""
    if after["version"] != before["version"]:
        raise Early(run=run, before=before["version"], after=after["version"])
    if after["epoch"] != before["epoch"]:
        raise Early(run=run, opened_by=after["epoch"])


def _must_hold(state: TrainerState, stored: dict[str, str], calls: int) -> None:
    """Raises an error if this trainer lost the run, or the run went back or is half recovered."""
    if state.epoch and stored["epoch"] != state.epoch:
        raise Fenced(run=state.run, epoch=stored["epoch"])
    if state.epoch and int(stored["call"]) < calls:
        raise Rewound(call=calls, last=int(stored["call"]), version=stored["version"])
    if stored["recovering"]:
        raise Recovering(version=stored["recovering"])


async def _awaited(state: TrainerState, stored: dict[str, str]) -> set[str]:
    """The tasks that the last recovery named and that are not there yet: they are unfinished too."""
    if not int(stored.get("awaited") or 0):
        return set()
    ids: list[bytes] = await state.io.command("HKEYS", keys.key(state.run, "awaited"))
    return {text(task) for task in ids}


async def _add_tasks(state: TrainerState, writer: TasksWriter | None, records: Mapping[str, TaskRecord]) -> None:
    """Adds tasks to the second file of a full checkpoint."""
    if writer is None or not records:
        return
    payloads: list[bytes | None] = await state.io.command("HMGET", keys.key(state.run, "payloads"), *records)
    tasks = [
        NewTask(task, payload or b"", record) for (task, record), payload in zip(records.items(), payloads, strict=True)
    ]
    await state.io.blocking(lambda: writer.add(tasks))


async def _scan(state: TrainerState, cursor: str) -> tuple[str, dict[str, TaskRecord]]:
    following, rows = await state.io.command("HSCAN", keys.key(state.run, "tasks"), cursor, "COUNT", SCAN_COUNT)
    return text(following), {text(rows[i]): task_record(rows[i + 1]) for i in range(0, len(rows), 2)}


async def recover_from(
    state: TrainerState,
    source: Checkpoint | str | os.PathLike[str] | None,
    version: int | None,
    *,
    in_flight: str,
    missing_ok: bool,
    allow_loss: bool,
    blob: bytes | Callable[[int], Any] | None,
    dry_run: bool,
    progress: Progress | None,
) -> RecoveryReport:
    """Reads the source, then recovers or previews. The run is not changed before the source is known to be good."""
    check_in_flight(in_flight)
    if source is not None and version is not None:
        raise BadArgument(
            argument="version", given=version, expected="None where a checkpoint is given: it has its own"
        )
    if version is not None:
        version = whole("version", version, 0, MAX_VERSION)
    if blob is not None and not callable(blob):
        blob = bytes_of("blob", blob)
    made: Checkpoint | None = None
    if source is not None:
        found = await find(state, source, missing_ok=missing_ok)
        if isinstance(found, ForeignCheckpoint):
            version = found.version
        else:
            made = found
    if callable(blob):
        blob = None if dry_run else await _asked_for(state, blob, made.version if made else version or 0)
    to = target_of(made, version or 0, in_flight, blob, allow_loss=allow_loss)
    if dry_run:
        return await preview(state, to, made, progress)
    return await recover(state, to, made, progress)


async def _asked_for(state: TrainerState, blob: Callable[[int], Any], version: int) -> bytes | None:
    """The blob that the user's function gives for the version that a recovery goes to; None: the checkpoint's."""
    given = await state.io.ask("blob", blob, version)
    return None if given is None else bytes_of("blob", given)


async def find(
    state: TrainerState, source: Checkpoint | str | os.PathLike[str], *, missing_ok: bool = False
) -> Checkpoint | ForeignCheckpoint | None:
    """The checkpoint that a recovery from a source uses: the newest of a path on the history that the server knows.

    None: the path has no file, which `missing_ok` allows.
    """
    if missing_ok and not (await state.io.blocking(lambda: exists(source))):
        return None
    history = await _history(state)
    found: Checkpoint | ForeignCheckpoint = await state.io.blocking(lambda: load_source(source, state.run, history))
    if isinstance(found, Checkpoint) and found.path is not None:
        if found.by_operator:
            _log.warning("%s was written by an operator: no weights of a trainer were saved beside it", found.path)
        _log.info("the recovery of run %s goes by %s, version %d", state.run, found.path, found.version)
    return found


async def _history(state: TrainerState) -> History:
    """What the server knows of the run's past. A server that lost the run knows little; without a run, nothing."""
    stored: list[bytes | None] = await state.io.command("HMGET", keys.state(state.run), "tokens", "recoveries", "floor")
    tokens, recoveries, floor = (text(value or b"") for value in stored)
    policies: list[bytes] = await state.io.command("HGETALL", keys.key(state.run, "policies"))
    made_by = (text(epoch).partition(".")[2] for epoch in policies[1::2])
    pairs = (pair.partition(":") for pair in recoveries.split())
    return History(
        frozenset([*tokens.split(), *made_by]), tuple((int(by), int(to)) for by, _, to in pairs), int(floor or 0)
    )


def target_of(
    source: Checkpoint | None, version: int, in_flight: str, blob: bytes | None, *, allow_loss: bool
) -> Begin:
    """The target of a recovery: a checkpoint, or a version alone."""
    if source is None:
        return Begin(version, in_flight=in_flight, allow_loss=allow_loss, blob=blob)
    return Begin(
        source.version,
        source.epoch,
        source.order,
        in_flight,
        source.policies,
        allow_loss,
        None if source.cursor is None else json.dumps(source.cursor),
        source.blob if blob is None else blob,
        source.recoveries,
        source.lineage,
    )


async def recover(
    state: TrainerState, to: Begin, source: Checkpoint | None, progress: Progress | None
) -> RecoveryReport:
    """Takes the run to a version, under a new epoch of this trainer."""
    # Only our checkpoint, or a trainer with its config, may create a run that does not exist.
    config = source.config.to_fields() if source is not None else state.config.to_fields() if state.epoch else None
    token = secrets.token_hex(8)
    state.recovering()
    begun: Begun = await state.numbered.take_over(recovery.begin(state.run, token, to, config, now=state.now), token)
    state.recovered(begun.epoch)

    async def sweep(piece: list[str]) -> Swept:
        return await state.numbered.call(lambda by: recovery.sweep(state.run, by, piece, is_listed, now=state.now))

    listed = frozenset[str]() if source is None else source.unfinished
    is_listed = listed.__contains__
    counts, known = await _walk(state, listed, sweep, progress)
    missing = sorted(listed - known)
    for at in range(
        0, len(missing), SWEEP_TASKS
    ):  # these tasks may be enqueued again, although they were finished once
        await sweep(missing[at : at + SWEEP_TASKS])
    after: Recovered = await state.numbered.call(lambda call_id: recovery.end(state.run, call_id, now=state.now))
    while await state.trim():
        pass
    restored = 0
    if missing and source is not None and source.tasks_path is not None:
        back = await _restore(state, source.tasks_path, set(missing))
        restored, missing = len(back), sorted(set(missing) - back)
    await state.refresh()
    return _report(state.run, state.cursor, to, begun, counts, after, missing, restored, source)


async def _walk(
    state: TrainerState,
    listed: frozenset[str],
    deal_with: Callable[[list[str]], Awaitable[Swept]],
    progress: Progress | None,
) -> tuple[Counter[str], set[str]]:
    """Scans all tasks and deals with them in pieces.

    Returns the counts, and which of the listed tasks the server knows.
    """
    stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
    counts, known, done, total = Counter[str](), set[str](), set[str](), int(stored["n_tasks"])
    cursor = "0"
    while True:
        cursor, rows = await _scan(state, cursor)
        fresh = [task for task in rows if task not in done]  # a scan may return a task twice
        known.update(task for task in fresh if task in listed)
        done.update(fresh)
        while fresh:
            swept = await deal_with(fresh[:SWEEP_TASKS])
            counts.update(swept.counts)
            fresh = fresh[swept.done :]
        if progress is not None:
            await state.io.ask("progress", progress, min(len(done), total), total)
        if cursor == "0":
            return counts, known


async def _restore(state: TrainerState, path: Path, missing: set[str]) -> set[str]:
    """Enqueues the missing tasks from a full checkpoint, and returns those that it has."""
    restored = set[str]()
    pieces: Iterator[list[NewTask]] = read_tasks(path)
    while (piece := (await state.io.blocking(lambda: next(pieces, None)))) is not None:
        wanted = [task for task in piece if task.id in missing]
        for at in range(0, len(wanted), 64):
            part = wanted[at : at + 64]
            await state.numbered.call(
                lambda call_id, part=part: trainer.enqueue(state.run, call_id, part, now=state.now)
            )
            restored.update(task.id for task in part)
    return restored


async def preview(
    state: TrainerState, to: Begin, source: Checkpoint | None, progress: Progress | None
) -> RecoveryReport:
    """Returns what `recover` would report; changes nothing."""
    stored: dict[str, str] = await state.io.call(anyone.stats(state.run, now=state.now))
    listed = frozenset[str]() if source is None else source.unfinished

    async def look(piece: list[str]) -> Swept:
        return await state.io.call(recovery.preview(state.run, to, piece, listed.__contains__, now=state.now))

    asked = await look([])  # refuses an impossible target, even if there is no task
    counts, known = await _walk(state, listed, look, progress)
    config = RunConfig.from_fields(stored)
    accepted = to.version * config.batch_size + counts["ready"]
    # An admission run has no tasks: its owners count what is running.
    running = counts["running"] + (int(stored["running"]) if stored.get("admission") == "1" else 0)
    capacity = terms(config, to.version, accepted, running).capacity
    steps = [str(step) for step in range(to.version, int(stored["version"]))]
    sizes: list[bytes | None] = (
        (await state.io.command("HMGET", keys.key(state.run, "batches"), *steps)) if steps else []
    )
    lost = sum(int(size.split()[0]) for size in sizes if size)
    before = {name: int(stored[name]) for name in ("version", "step_next", "accepted", "running", "capacity")}
    begun = Begun(epoch="", consumed_by_lost_steps=lost, **before)
    text_of_cursor = to.cursor if "file_cursor" in asked.counts else stored["cursor"]
    cursor = json.loads(text_of_cursor) if text_of_cursor else None
    missing = sorted(listed - known)
    restored = 0
    if source is not None and source.tasks_file is not None:
        restored, missing = len(missing), []
    after = Recovered(accepted, running, capacity)
    return _report(state.run, cursor, to, begun, counts, after, missing, restored, source)


def _report(
    run: str,
    cursor: Any,
    to: Begin,
    begun: Begun,
    counts: Counter[str],
    after: Recovered,
    missing: list[str],
    restored: int,
    source: Checkpoint | None,
) -> RecoveryReport:
    return RecoveryReport(
        run=run,
        version_from=begun.version,
        version_to=to.version,
        epoch=begun.epoch,
        requeued={cause: counts[cause] for cause in _CAUSES if counts[cause]},
        ready_again=counts["ready_again"],
        finished=counts["finished"],
        results_dropped=counts["results_dropped"],
        results_kept=counts["results_kept"],
        attempts_revoked=counts["attempts_revoked"],
        attempts_kept=counts["attempts_kept"],
        consumed_by_lost_steps=begun.consumed_by_lost_steps,
        accepted=(begun.accepted, after.accepted),
        running=(begun.running, after.running),
        capacity=(begun.capacity, after.capacity),
        cursor=cursor,
        missing=missing,
        restored=restored,
        dropped=counts["dropped"],
        source=None if source is None or source.path is None else str(source.path),
        source_by_operator=source is not None and source.by_operator,
    )
