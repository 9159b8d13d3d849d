"""Why workers get tasks or do not, in words: what binds, and the ways out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors.words import count, duration, listing
from broker.inspection.capacity import terms_of
from broker.protocol.ids import attempt_id, worker_of

if TYPE_CHECKING:
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.protocol.anyone import Halt


@dataclass(frozen=True, slots=True)
class NextClaim:
    """Whether a worker with the newest weights would get a task now.

    Attributes:
        reason: the word that `claim` would answer, or `open` if it would hand out a task.
        sentence: the same for people.
        remedies: what would change the answer; empty if nothing needs to.
    """

    reason: str
    sentence: str
    remedies: tuple[str, ...] = ()


def next_claim(explanation: Explanation) -> NextClaim:
    """The answer to a claim with the newest weights, decided in the order of `claim`."""
    stats = explanation.stats
    if (stopped := _stopped(explanation)) is not None:
        return stopped
    if stats.admission:
        return _admission(stats)
    config, terms = stats.config, terms_of(stats)
    following = f"version {stats.version + 1}"
    # Even the newest version may be too stale for the next batch: nothing starts, and running tasks are reset when met.
    overtaken = config.on_stale != "keep" and config.oldest_trained is not None and _lag(stats) > config.oldest_trained
    if (full := _samples_held(explanation)) is not None:
        return full
    if stats.open_slots and not overtaken:
        tasks = count(stats.open_slots, "running task has", "running tasks have")
        return NextClaim("open", f"Yes: {tasks} open slots, which need no capacity.")
    if not overtaken and (first := _swept_first(explanation)):
        return NextClaim("open", f"Yes: the next claims {first}, which needs no capacity.")
    if stats.paused == "draining":
        return NextClaim("draining", "No: only groups that are started are finished.", (f"broker resume {stats.run}",))
    pending = stats.pending or _is_due(explanation, "delayed")
    if not (pending or stats.open_slots):
        return NextClaim("empty", "No: no task is pending.", _ways_to_pending(stats))
    if terms.concurrency <= 0:
        return NextClaim(
            "max_concurrent",
            f"No: {count(stats.running, 'task is', 'tasks are')} running, "
            f"max_concurrent_rollouts allows {config.concurrency}.",
            ("A running task ends: each gives back 1.", "A larger max_concurrent_rollouts."),
        )
    if overtaken:
        return NextClaim(
            "at_capacity",
            f"No: a rollout of version {stats.version} is too stale for step {stats.step_next}, which is taken next.",
            (f"The trainer advances to {following}.", "A larger max_staleness lets rollouts and training overlap."),
        )
    if terms.capacity <= 0:
        return NextClaim(
            "at_capacity",
            f"No: what may be started before {following} has been started.",
            (
                f"The trainer advances to {following}: opens {config.batch_size}. {batch_progress(stats)}",
                "A task that is discarded, cancelled, or ends dead or rejected: each gives back 1.",
                f"A larger max_staleness: each step more opens {config.batch_size}.",
            ),
        )
    if not stats.pending:
        return NextClaim("open", "Yes: the backoff of a task has passed, the next claim may start it.")
    startable = min(terms.capacity, stats.pending)
    return NextClaim("open", f"Yes: {count(startable, 'task')} may be started now.")


def _stopped(explanation: Explanation) -> NextClaim | None:
    """The answer where the run hands out nothing at all."""
    stats = explanation.stats
    if stats.finished:
        return NextClaim(
            "finished",
            "No: the run is finished.",
            ("trainer.enqueue, feed or recover opens it again, as a retry of dead tasks does.",),
        )
    if stats.halted:
        return NextClaim("halted", f"No: {halt_told(explanation)}", _ways_out_of_a_halt(stats))
    if stats.paused == "paused":
        return NextClaim("paused", "No: the run is paused.", (f"broker resume {stats.run}",))
    if stats.recovering is not None:
        return NextClaim(
            "recovering",
            f"No: a recovery to version {stats.recovering} has begun and is not committed.",
            ("The recovering trainer commits. If it died, recover again from the same checkpoint.",),
        )
    return None


def halt_told(explanation: Explanation) -> str:
    """Why a run is halted, in sentences."""
    halt, failures, stats = explanation.halt, count(explanation.stats.halted, "failure"), explanation.stats
    if stats.halted_by:
        return (
            f"the run is halted, because all its workers were quarantined: {listing(_workers(stats.halted_by))}."
            + _last_error(halt)
        )
    told = f"the run is halted: it had {failures} of different tasks without an accepted result between them."
    if halt is None:
        return told
    who = f" They were attempts of {'worker' if len(halt.workers) == 1 else 'workers'} {listing(halt.workers[:5])}" + (
        f" and {count(len(halt.workers) - 5, 'other')}." if len(halt.workers) > 5 else "."
    )
    return f"{told}{who}{_last_error(halt)}"


def _last_error(halt: Halt | None) -> str:
    return "".join(f" The last error: {row.error}" for row in (halt.errors[:1] if halt else ()))


def _workers(sessions: Sequence[str]) -> list[str]:
    """The names of the workers of some sessions, each once; of many the first five."""
    names = list(dict.fromkeys(map(worker_of, sessions)))
    return names[:5] + ([count(len(names) - 5, "other")] if len(names) > 5 else [])


def quarantine_told(stats: Stats) -> str:
    """Which workers are quarantined, and for how long, in a sentence; empty if none is."""
    if not stats.quarantined:
        return ""
    named = [f"{worker_of(session)} for {duration(left_s)}" for session, left_s in list(stats.quarantine.items())[:5]]
    if stats.quarantined > len(named):
        named.append(count(stats.quarantined - len(named), "other"))
    return f"Quarantined, because their attempts failed while those of others succeeded: {listing(named)}."


def _ways_out_of_a_halt(stats: Stats) -> tuple[str, ...]:
    return (
        f"Mend the cause, then: broker resume {stats.run} --halted, or trainer.resume(). No attempt was used up by it.",
    )


def _swept_first(explanation: Explanation) -> str:
    """The slots that the next claims take back and hand out again, in words; empty if none is due."""
    if _is_due(explanation, "retries"):
        return "hand out a slot whose backoff has passed"
    if (lost := explanation.holding.lost) and _may_be_tried_again(explanation, lost):
        return f"take back {count(lost, 'slot')} of workers that are silent, and hand out what may be tried again"
    if _is_due(explanation, "deadlines") and _timed_out_may_be_tried_again(explanation):
        return "take back an attempt that has reached its time-out, and hand out its slot"
    return ""


def _samples_held(explanation: Explanation) -> NextClaim | None:
    """The answer where workers hold all samples that they may, the next claim takes none back, and work is left."""
    stats, by_samples = explanation.stats, terms_of(explanation.stats).samples
    if by_samples is None or by_samples > 0 or explanation.holding.lost or _is_due(explanation, "deadlines"):
        return None
    is_pending = stats.paused != "draining" and (stats.pending or _is_due(explanation, "delayed"))
    if not (is_pending or stats.open_slots or _is_due(explanation, "retries")):
        return None
    return NextClaim(
        "max_samples",
        f"No: workers hold {count(stats.held or 0, 'sample')}, "
        f"max_concurrent_samples allows {stats.config.max_concurrent_samples}.",
        ("An attempt ends: each gives back 1.", "A larger max_concurrent_samples."),
    )


def _may_be_tried_again(explanation: Explanation, lost: int) -> bool:
    """Whether one of the slots that silent workers hold may be tried again after it is taken back."""
    rows = [row for row in explanation.held if row.deadline_ms <= explanation.now_ms]
    tasks: dict[str, set[str]] = {}
    for row in rows:
        tasks.setdefault(row.session, set()).add(attempt_id(row.attempt_id).task)
    costs_nothing = (len(tasks[row.session]) > 1 and not row.again for row in rows)
    has_tries = (row.tries + 1 < row.max_attempts for row in rows)
    return len(rows) < lost or any(costs_nothing) or any(has_tries)


def _timed_out_may_be_tried_again(explanation: Explanation) -> bool:
    """Whether an attempt that has reached its time-out leaves a try. If none of these is listed, it may."""
    over = [row for row in explanation.held if row.timeout_ms and row.at_ms + row.timeout_ms <= explanation.now_ms]
    return not over or any(row.tries + 1 < row.max_attempts for row in over)


def _is_due(explanation: Explanation, name: str) -> bool:
    return 0 < explanation.due.get(name, 0) <= explanation.now_ms


#: A trainer that has given no sign of life for longer is taken to be dead, seconds. It gives one every 10 s.
TRAINER_SILENT_S = 60.0


def trainer_silent(stats: Stats) -> str:
    """A sentence if the trainer has been silent for too long, with a space before it; else empty."""
    silent_s = stats.trainer_silent_s
    if stats.finished or silent_s is None or silent_s < TRAINER_SILENT_S:
        return ""
    return f" The trainer has given no sign of life for {duration(silent_s)}."


def batch_progress(stats: Stats) -> str:
    """How full the trainer's next batch is, in a sentence."""
    if stats.admission:
        return "The run holds no tasks and no batches: its processes have them, the broker counts."
    if stats.step_next > stats.version:
        return f"The batch of step {stats.version} is sealed and being trained."
    batch, have = stats.config.batch_size, stats.ready + stats.batched
    left = have + stats.running + stats.pending + stats.delayed + stats.awaited
    name = f"The batch of step {stats.step_next}"
    if stats.due:
        return f"{name} has {stats.batched} of {batch}. {due_told(stats)}"
    if have >= batch:
        return f"{name} can be taken: it needs {batch}, and {count(have, 'is', 'are')} ready."
    if left < batch:
        needs = f"it needs {batch}, and {count(left, 'is', 'are')} left"
        return f"{name} cannot be filled: {needs}. Enqueue more, or take a short batch."
    return f"{name} has {have} of {batch}; {count(stats.running, 'is', 'are')} running.{awaited_told(stats)}"


def due_told(stats: Stats) -> str:
    """For whom the next batch waits with `on_stale="wait"`, in a sentence."""
    limit = duration(stats.config.max_wait_ms / 1000)
    return (
        f"For {duration(stats.due_s)} it has waited for what no later batch could hold: {listing(stats.due)}. "
        f"After {limit} (max_wait_ms) these start over."
    )


def awaited_told(stats: Stats) -> str:
    """A sentence if tasks are left that the last recovery named; else empty."""
    if not stats.awaited:
        return ""
    named = count(stats.awaited, "task", "tasks")
    verb = "is" if stats.awaited == 1 else "are"
    return (
        f" {named} that the last recovery named (`RecoveryReport.missing`) {verb} still missing: "
        "the trainer enqueues or cancels what is missing."
    )


def untrained(stats: Stats) -> tuple[str, ...]:
    """The tasks that ended without being trained on, and how to start them over, in sentences."""
    freed = stats.totals.get("freed_dead", 0), stats.totals.get("freed_rejected", 0)
    told: list[str] = []
    if stats.dead or stats.rejected:
        told.append(
            f"{count(stats.dead, 'task is', 'tasks are')} dead and {stats.rejected:,} rejected: "
            f"`broker dead {stats.run} list` (or list --rejected) says why, `retry` in place of list starts them over."
        )
    if any(freed):
        told.append(
            f"The records of {freed[0]:,} dead and {freed[1]:,} rejected tasks more were freed (max_finished is "
            f"{stats.config.max_finished:,}): the trainer takes them by enqueue(tasks, again=True)."
        )
    return tuple(told)


def _admission(stats: Stats) -> NextClaim:
    """The answer to a process of an admission run that asks to start a rollout."""
    config, terms, following = stats.config, terms_of(stats), f"version {stats.version + 1}"
    if stats.paused == "draining":
        return NextClaim("draining", "No: the run is draining.", (f"broker resume {stats.run}",))
    if terms.binding == "concurrency":
        running = count(stats.running, "rollout is", "rollouts are")
        return NextClaim(
            "max_concurrent",
            f"No: {running} running, max_concurrent_rollouts allows {config.concurrency}.",
            ("A rollout ends, or a process that has some: each gives back 1.", "A larger max_concurrent_rollouts."),
        )
    if terms.binding == "staleness":
        return NextClaim(
            "at_capacity",
            f"No: what may be started before {following} has been started.",
            (
                f"A process reports {following}: opens {config.batch_size}.",
                "A rollout is rejected, or its process ends: each gives back 1.",
                f"A larger max_staleness: each step more opens {config.batch_size}.",
            ),
        )
    return NextClaim("open", f"Yes: {count(terms.capacity, 'rollout')} may be started now.")


def _lag(stats: Stats) -> int:
    """How stale a rollout of the newest version is in the next batch."""
    return stats.step_next - stats.version


def _ways_to_pending(stats: Stats) -> tuple[str, ...]:
    ways = ["The trainer enqueues tasks."]
    if stats.delayed:
        ways.append(f"{count(stats.delayed, 'task waits', 'tasks wait')} for a retry.")
    if stats.running:
        ways.append("A running task loses its last attempt and goes back.")
    return tuple(ways)
