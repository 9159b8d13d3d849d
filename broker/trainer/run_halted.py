"""Makes the error RunHalted: how much failed, where, and why."""

from __future__ import annotations

from collections.abc import Sequence

from broker.connections.base import BaseTransport
from broker.errors import BrokerError, RunHalted
from broker.protocol import anyone, keys
from broker.protocol.ids import worker_of
from broker.protocol.script_call import Now

#: How many of the last errors are told, how many workers, and characters of each error.
_ERRORS, _WORKERS, _CHARS = 3, 10, 200


async def waits_in_a_halt(io: BaseTransport, run: str, step: int) -> bool:
    """Whether the run is halted, its trainer waits for the batch of this step, and what is ready does not fill it."""
    stored = await io.command("HMGET", keys.state(run), "halted", "want", "step_next")
    halted, want, step_next = (int(value or 0) for value in stored)
    return halted > 0 and step >= step_next and want > 0 and want > await io.command("ZCARD", keys.key(run, "ready"))


async def run_halted(io: BaseTransport, run: str, now: Now = "") -> RunHalted:
    """The error of a run that is halted; also where the halt has just been ended by somebody else."""
    stored, facts = await io.execute((anyone.stats(run, now=now), anyone.facts(run, 100, now=now)))
    if isinstance(stored, BrokerError):
        raise stored
    if isinstance(facts, BrokerError):
        raise facts
    halt = facts.halt
    if halt is None:
        return RunHalted(run=run)
    quarantined = tuple(dict.fromkeys(worker_of(session) for session in (stored.get("halted_by") or "").split()))
    workers = _listed(quarantined or halt.workers)
    last = {row.error: row for row in reversed(halt.errors)}  # each error once, of the last task that met it
    rows = sorted(last.values(), key=lambda row: -row.at_ms)[:_ERRORS]
    errors = ", ".join(f"{row.error[:_CHARS]} (task {row.task} on {worker_of(row.session)})" for row in rows)
    found = RunHalted(run=run, failures=halt.failures, workers=workers, errors=errors)
    if quarantined:
        found.fields["quarantined"] = len(quarantined)
    return found


def _listed(workers: Sequence[str]) -> str:
    more = len(workers) - _WORKERS
    return ", ".join(workers[:_WORKERS]) + (f" and {more} more" if more > 0 else "")
