"""The server's time for a full cycle, by script, and the cost of each feature: commandstats, and perf if it works."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.commandstats import spent
from benchmarks.instructions import counted
from benchmarks.lab import Lab
from broker import Attempt, Trainer, Worker


def cases(lab: Lab) -> list[Case]:
    """One at a time and batched; then without or with each feature."""
    found: list[Case] = []
    for batch, name in ((1, "one at a time"), (ours.BATCH, "batches of 64")):
        found += [
            Case("server", name, "ours", partial(_ours, lab, batch)),
            Case("server", name, "limit", partial(_bare, lab, batch, many=False)),
            Case("server", f"{name}, no events", "ours", partial(_ours, lab, batch, events_maxlen=0)),
            Case(
                "server", f"{name}, time-out of attempts", "ours", partial(_ours, lab, batch, attempt_timeout_ms=60_000)
            ),
            Case("server", f"{name}, policy named", "ours", partial(_ours, lab, batch, policy=True)),
            Case("server", f"{name}, groups of 8", "ours", partial(_ours, lab, batch, samples=8)),
        ]
    found.append(Case("server", "batches of 64, variadic", "limit", partial(_bare, lab, ours.BATCH, many=True)))
    return found


def _ours(lab: Lab, batch: int, samples: int = 1, *, policy: bool = False, **fields: int) -> dict[str, float]:
    count, run = lab.size(1920 if batch == 1 else 6400, 640), lab.run_name()
    config = ours.config(count // samples, **fields)
    values: dict[str, float] = {}
    with Trainer(lab.url, run, config) as trainer:
        new = list(ours.tasks(count // samples, samples=samples))

        def enqueue() -> None:
            for first in range(0, len(new), batch):
                trainer.enqueue(new[first : first + batch])

        _measure(lab, values, "enqueue", len(new), enqueue)
        with Worker(lab.url, run, heartbeat=False) as worker:
            if policy:
                worker.policy = worker.claim(1)[0].policy
                worker.release(worker.held)
            held: list[list[Attempt]] = []

            def claim() -> None:
                while attempts := worker.claim(batch):
                    held.append(attempts)

            def submit() -> None:
                for attempts in held:
                    if batch == 1:
                        worker.submit(attempts[0], ours.RESULT)
                    else:
                        worker.submit_many([(attempt, ours.RESULT) for attempt in attempts])

            _measure(lab, values, "claim", count, claim)
            _measure(lab, values, "submit", count, submit)
            assert trainer.stats().ready == len(new)
    return _cycle(values)


def _bare(lab: Lab, batch: int, *, many: bool) -> dict[str, float]:
    count, bare = lab.size(1920 if batch == 1 else 6400, 640), lab.bare
    (bare.seed_many if many else bare.seed)(count)
    values: dict[str, float] = {}
    held: list[list[bytes]] = []

    import redis

    # Through redis-py, so that the server is about as idle between two calls as with the broker's client.
    with redis.Redis.from_url(lab.url) as client:

        def claim() -> None:
            call = bare.claim_many_call(batch) if many else bare.claim_call(batch)
            while claimed := client.execute_command(*call):
                held.append(claimed)

        def submit() -> None:
            for claimed in held:
                client.execute_command(*(bare.submit_many_call(claimed) if many else bare.submit_call(claimed)))

        _measure(lab, values, "claim", count, claim)
        _measure(lab, values, "submit", count, submit)
    return _cycle(values)


def _measure(lab: Lab, values: dict[str, float], name: str, count: int, work: Callable[[], None]) -> None:
    cpu = lab.server_cpu_s()
    with spent(lab.control) as used, counted(lab.server.pid) as instructions:
        work()
    cpu = lab.server_cpu_s() - cpu
    values[f"{name}_us"] = used.micros / count
    values[f"{name}_cpu_us"] = cpu * 1e6 / count
    values[f"{name}_commands_count"] = sum(used.commands().values()) / count
    if instructions:
        values[f"{name}_instructions_count"] = instructions[0] / count


def _cycle(values: dict[str, float]) -> dict[str, float]:
    for kind in ("us", "cpu_us", "commands_count", "instructions_count"):
        if f"claim_{kind}" in values:
            values[f"cycle_{kind}"] = values[f"claim_{kind}"] + values[f"submit_{kind}"]
    return values
