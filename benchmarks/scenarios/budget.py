"""The budget of each operation of the public API: round trips, script calls, commands inside them, bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import ours
from benchmarks.bare import RESULT
from benchmarks.cases import Case
from benchmarks.commandstats import spent
from benchmarks.lab import Lab
from benchmarks.resp import info
from broker import Trainer, Worker

_COUNTERS = {
    "round_trips_count": "total_reads_processed",
    "sent_bytes": "total_net_input_bytes",
    "received_bytes": "total_net_output_bytes",
}


def cases(lab: Lab) -> list[Case]:
    """One case for each operation."""
    return [Case("budget", name, "ours", partial(_measure, lab, name)) for name in _operations()]


Work = Callable[[], object]
#: Prepares, and returns the work to measure.
Prepare = Callable[[Trainer, Worker], Work]


def _operations() -> dict[str, Prepare]:
    return {
        "enqueue 1": lambda trainer, _: partial(trainer.enqueue, list(ours.tasks(1, first=1000))),
        "enqueue 64": lambda trainer, _: partial(trainer.enqueue, list(ours.tasks(64, first=1000))),
        "claim 1": lambda _, worker: partial(worker.claim, 1),
        "claim 64": lambda _, worker: partial(worker.claim, 64),
        "submit 1": lambda _, worker: partial(worker.submit, worker.claim(1)[0], RESULT),
        "submit 64": lambda _, worker: partial(worker.submit_many, [(attempt, RESULT) for attempt in worker.claim(64)]),
        "submit 1 of 1 MiB": lambda _, worker: partial(worker.submit, worker.claim(1)[0], bytes(1024 * 1024)),
        "submit and claim the next (loop)": _loop,
        "renew, 64 held": lambda _, worker: _after(worker.renew, worker.claim(64)),
        "next_batch of 64": _next_batch,
        "advance": _advance,
        "capacity": lambda trainer, _: trainer.capacity,
        "audit": lambda trainer, _: trainer.audit,
    }


def _after(work: Work, _: object) -> Work:
    return work


def _loop(_: Trainer, worker: Worker) -> Work:
    attempts = iter(worker)
    attempt = next(attempts)
    # A submit claims only during an iteration, so `attempts` has to live as long as the work.
    return lambda: (worker.submit(attempt, RESULT), attempts)


def _finish(worker: Worker) -> None:
    worker.submit_many([(attempt, RESULT) for attempt in worker.claim(64)])


def _next_batch(trainer: Trainer, worker: Worker) -> Work:
    _finish(worker)
    return partial(trainer.next_batch, 64, timeout=10)


def _advance(trainer: Trainer, worker: Worker) -> Work:
    _finish(worker)
    trainer.next_batch(64, timeout=10)
    return trainer.advance


def _measure(lab: Lab, name: str) -> dict[str, float]:
    # Measured twice: the first run opens connections and loads scripts.
    for _ in range(2):
        run = lab.run_name()
        with ours.filled(lab.url, run, 64) as trainer, Worker(lab.url, run, heartbeat=False) as worker:
            worker.renew()
            work = _operations()[name](trainer, worker)
            values = _sent(lab, work)
    return values


def _sent(lab: Lab, work: Work) -> dict[str, float]:
    nothing, used = _counted(lab, lambda: None), _counted(lab, work)
    return {key: value - nothing.get(key, 0) for key, value in used.items()}


def _counted(lab: Lab, work: Work) -> dict[str, float]:
    with spent(lab.control) as used:
        before = info(lab.control, "stats")
        work()
        after = info(lab.control, "stats")
    values = {key: float(after[name]) - float(before[name]) for key, name in _COUNTERS.items()}
    values["script_calls_count"] = used.script_calls
    values["commands_count"] = sum(used.commands().values())
    return values
