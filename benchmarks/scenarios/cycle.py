"""Full cycle: claim -> no-op -> accepted and stored result. One process in several ways, and several processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import hiredis

from benchmarks import ours
from benchmarks.bare import Bare, pairs_one_at_a_time
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.processes import throughput
from benchmarks.resp import RawClient
from broker import Worker

#: Handlers in flight in the asyncio case.
IN_FLIGHT = 32


def cases(lab: Lab) -> list[Case]:
    """Ours, groups, AOF; the limits."""
    found = [
        Case("cycle", "loop", "ours", partial(_loop, lab)),
        Case("cycle", "claim, then submit", "ours", partial(_two_calls, lab)),
        Case("cycle", "pair in one round trip", "limit", partial(_fused_pairs, lab)),
        Case("cycle", f"asyncio, {IN_FLIGHT} in flight", "ours", partial(_asyncio, lab)),
        Case("cycle", "batches of 64", "ours", partial(_batched, lab, lab.url)),
        Case("cycle", "batches of 64, no events", "ours", partial(_batched, lab, lab.url, events_maxlen=0)),
        Case("cycle", "batches of 64, groups of 8", "ours", partial(_batched, lab, lab.url, samples=8)),
        Case("cycle", "batches of 64, AOF everysec", "ours", partial(_batched_aof, lab)),
        Case("cycle", "batches of 64", "limit", partial(_bare_batches, lab, many=False)),
        Case("cycle", "batches of 64, variadic", "limit", partial(_bare_batches, lab, many=True)),
        Case("cycle", "PING", "limit", partial(_plain, lab, ("PING",))),
        Case("cycle", "trivial EVALSHA", "limit", partial(_trivial, lab)),
    ]
    for processes in (4, 8):
        found += [
            Case("cycle", f"loop, {processes} processes", "ours", partial(_processes, lab, processes, batched=False)),
            Case(
                "cycle",
                f"batches of 64, {processes} processes",
                "ours",
                partial(_processes, lab, processes, batched=True),
            ),
        ]
    found += [
        Case("cycle", "pairs, 4 processes", "limit", partial(_bare_processes, lab, 4, _prepare_bare_pairs)),
        Case("cycle", "batches of 64, 4 processes", "limit", partial(_bare_processes, lab, 4, _prepare_bare_batches)),
        Case(
            "cycle",
            "batches of 64, variadic, 4 processes",
            "limit",
            partial(_bare_processes, lab, 4, _prepare_bare_many),
        ),
    ]
    return found


def _timed(lab: Lab, count: int, work: Callable[[], object]) -> dict[str, float]:
    """The rate, and an item's CPU time in client and server, which other programs on the machine disturb less."""
    client, server, started = time.process_time(), lab.server_cpu_s(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {
        "rate_per_s": count / seconds,
        "client_cpu_us": (time.process_time() - client) / count * 1e6,
        "server_cpu_us": (lab.server_cpu_s() - server) / count * 1e6,
    }


def _loop(lab: Lab) -> dict[str, float]:
    count, run = lab.size(2000, 300), lab.run_name()
    with ours.filled(lab.url, run, count), Worker(lab.url, run) as worker:
        return _timed(lab, count, lambda: ours.loop_one_at_a_time(worker, count))


def _two_calls(lab: Lab) -> dict[str, float]:
    count, run = lab.size(1000, 200), lab.run_name()
    with ours.filled(lab.url, run, count), Worker(lab.url, run) as worker:

        def work() -> None:
            while attempts := worker.claim():
                worker.submit(attempts[0], ours.RESULT)

        return _timed(lab, count, work)


def _asyncio(lab: Lab) -> dict[str, float]:
    count, run = lab.size(4000, 600), lab.run_name()
    with ours.filled(lab.url, run, count):
        return _timed(lab, count, lambda: asyncio.run(ours.run_concurrently(lab.url, run, count, IN_FLIGHT)))


def _batched(lab: Lab, url: str, samples: int = 1, **fields: int) -> dict[str, float]:
    count, run = lab.size(6400, 1280), lab.run_name()
    with ours.filled(url, run, count // samples, samples=samples, **fields), Worker(url, run) as worker:
        return _timed(lab, count, lambda: _all(count, ours.loop_over_batches(worker, count)))


def _batched_aof(lab: Lab) -> dict[str, float]:
    with lab.another_server(appendonly="yes", appendfsync="everysec") as url:
        values = _batched(lab, url)
    del values["server_cpu_us"]  # measured the wrong server
    return values


def _all(count: int, done: int) -> None:
    assert done == count, (done, count)


def _processes(lab: Lab, processes: int, *, batched: bool) -> dict[str, float]:
    count, run = (lab.size(12800, 2560) if batched else lab.size(4000, 600)), lab.run_name()
    # One more task for each process than they do: no process waits for a task that another one has claimed ahead.
    with ours.filled(lab.url, run, count + processes):
        prepare = _prepare_batches if batched else _prepare_loop
        return {"rate_per_s": throughput(processes, prepare, lab.url, run, count // processes)}


def _prepare_batches(url: str, run: str, _: int) -> Callable[[], int]:
    worker = Worker(url, run)
    return lambda: ours.loop_batched(worker)


def _prepare_loop(url: str, run: str, count: int) -> Callable[[], int]:
    worker = Worker(url, run)

    def work() -> int:
        ours.loop_one_at_a_time(worker, count)
        return count

    return work


def _fused_pairs(lab: Lab) -> dict[str, float]:
    """Bare submit and the next bare claim in one round trip: the limit of the loop."""
    count, client, bare = lab.size(2000, 300), lab.control, lab.bare
    bare.seed(count)
    claim = hiredis.pack_command(bare.claim_call())

    def work() -> None:
        client.send(claim)
        claimed = client.receive(1)[0]
        while claimed:
            client.send(hiredis.pack_command(bare.submit_call(claimed)) + claim)
            claimed = client.receive(2)[1]

    return _timed(lab, count, work)


def _bare_batches(lab: Lab, *, many: bool) -> dict[str, float]:
    count = lab.size(6400, 1280)
    (lab.bare.seed_many if many else lab.bare.seed)(count)
    return _timed(lab, count, lambda: _all(count, _drain_bare(lab.bare, many=many)))


def _drain_bare(bare: Bare, *, many: bool) -> int:
    client, done = bare.client, 0
    claim = hiredis.pack_command(bare.claim_many_call(ours.BATCH) if many else bare.claim_call(ours.BATCH))
    submit = bare.submit_many_call if many else bare.submit_call
    while True:
        client.send(claim)
        claimed = client.receive(1)[0]
        if not claimed:
            return done
        client.send(hiredis.pack_command(submit(claimed)))
        client.receive(1)
        done += len(claimed) // 3


def _bare_processes(lab: Lab, processes: int, prepare: Callable[..., Callable[[], int]]) -> dict[str, float]:
    pairs = prepare is _prepare_bare_pairs
    count = lab.size(4000, 600) if pairs else lab.size(12800, 2560)
    (lab.bare.seed_many if prepare is _prepare_bare_many else lab.bare.seed)(count)
    return {"rate_per_s": throughput(processes, prepare, lab.url, count // processes)}


def _prepare_bare_pairs(url: str, count: int) -> Callable[[], int]:
    bare = Bare(RawClient(url))

    def work() -> int:
        pairs_one_at_a_time(bare, count)
        return count

    return work


def _prepare_bare_batches(url: str, _: int) -> Callable[[], int]:
    bare = Bare(RawClient(url))
    return lambda: _drain_bare(bare, many=False)


def _prepare_bare_many(url: str, _: int) -> Callable[[], int]:
    bare = Bare(RawClient(url))
    return lambda: _drain_bare(bare, many=True)


def _plain(lab: Lab, words: tuple[str, ...]) -> dict[str, float]:
    """Round trips of one command; two of them are comparable with a pair."""
    count, packed = lab.size(4000, 400), hiredis.pack_command(words)

    def work() -> None:
        for _ in range(count):
            lab.control.send(packed)
            lab.control.receive(1)

    return _timed(lab, count, work)


def _trivial(lab: Lab) -> dict[str, float]:
    sha = lab.control.call("SCRIPT", "LOAD", "return 1").decode()
    return _plain(lab, ("EVALSHA", sha, "0"))
