"""Makes the error RunHalted: how much failed, where, and why."""

from __future__ import annotations

from broker.connections.base import BaseTransport
from broker.errors import RunHalted
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
    halt = (await io.call(anyone.facts(run, 100, now=now))).halt
    if halt is None:
        return RunHalted(run=run)
    named, more = halt.workers[:_WORKERS], len(halt.workers) - _WORKERS
    workers = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    last = {row.error: row for row in reversed(halt.errors)}  # each error once, of the last task that met it
    rows = sorted(last.values(), key=lambda row: -row.at_ms)[:_ERRORS]
    errors = ", ".join(f"{row.error[:_CHARS]} (task {row.task} on {worker_of(row.session)})" for row in rows)
    return RunHalted(run=run, failures=halt.failures, workers=workers, errors=errors)
