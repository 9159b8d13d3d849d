"""Makes the error RunHalted: how much failed, where, and why."""

from __future__ import annotations

from broker.errors import RunHalted
from broker.protocol import anyone
from broker.protocol.ids import worker_of
from broker.trainer.state import TrainerState

#: How many of the last errors are told, how many workers, and characters of each error.
_ERRORS, _WORKERS, _CHARS = 3, 10, 200


async def run_halted(state: TrainerState) -> RunHalted:
    """The error of a run that is halted; also where the halt has just been ended by somebody else."""
    halt = (await state.io.call(anyone.facts(state.run, 100, now=state.now))).halt
    if halt is None:
        return RunHalted(run=state.run)
    named, more = halt.workers[:_WORKERS], len(halt.workers) - _WORKERS
    workers = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    last = {row.error: row for row in reversed(halt.errors)}  # each error once, of the last task that met it
    rows = sorted(last.values(), key=lambda row: -row.at_ms)[:_ERRORS]
    errors = ", ".join(f"{row.error[:_CHARS]} (task {row.task} on {worker_of(row.session)})" for row in rows)
    return RunHalted(run=state.run, failures=halt.failures, workers=workers, errors=errors)
