"""The few numbers of a README: what a user feels first, beside the limit or the best peer of the same runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import number

#: scenario, who, name -> the case as a run's document has it.
Cases = Mapping[tuple[str, str, str], dict[str, Any]]

_OURS = "ours"


def rows(cases: Cases) -> list[tuple[str, str, str]]:
    """What, ours, and what it stands beside, as text; only what was measured."""
    found = [
        _row(cases, "enqueued, 64 a call", ("enqueue", "batches of 64", "rate_per_s"), "/s", "batches of 64"),
        _row(
            cases,
            "claimed, done, accepted: one worker, 64 a call",
            ("cycle", "batches of 64", "rate_per_s"),
            "/s",
            "a worker process",
        ),
        _row(
            cases,
            "the same, four workers",
            ("cycle", "batches of 64, 4 processes", "rate_per_s"),
            "/s",
            "4 processes",
        ),
        _row(cases, "the same, asyncio, 32 in flight", ("cycle", "asyncio, 32 in flight", "rate_per_s"), "/s"),
        _row(cases, "the same, one at a time", ("cycle", "loop", "rate_per_s"), "/s"),
        _row(cases, "idle worker starts after", ("latency", "loop", "start_p50_ms"), " ms", "an idle worker"),
        _row(cases, "trainer has the result after", ("latency", "loop", "result_p50_ms"), " ms", "an idle worker"),
        _row(
            cases,
            "results of 1 MiB, written and read",
            ("results", "1 MiB", "cycle_mb_per_s"),
            " MB/s",
            limit="1 MiB, SET + GET, raw",
        ),
        _row(
            cases,
            "`next_batch` of 1,024 x 256 KiB",
            ("trainer", "next_batch", "last_ms"),
            " ms",
            limit="MGET, redis-py",
        ),
        _row(
            cases,
            "memory of a waiting task beside its payload, 1 M waiting",
            ("backlog", "1,000,000 waiting", "memory_per_waiting_bytes"),
            " bytes",
        ),
    ]
    return [row for row in found if row]


def _row(
    cases: Cases, text: str, place: tuple[str, str, str], unit: str, peers: str = "", limit: str = ""
) -> tuple[str, str, str] | None:
    scenario, name, metric = place
    ours = _median(cases.get((scenario, _OURS, name)), metric)
    if ours is None:
        return None
    beside = ""
    best = _best_peer(cases, scenario, peers, metric) if peers else None
    if best:
        beside = f"{best[0]}: {number(best[1])}{unit}"
    elif limit:
        bound = _median(cases.get((scenario, "limit", limit)), metric)
        beside = f"{limit}: {number(bound)}{unit}" if bound is not None else ""
    return text, f"{number(ours)}{unit}", beside


def _best_peer(cases: Cases, scenario: str, name: str, metric: str) -> tuple[str, float] | None:
    """The peer with the highest rate, or the shortest time."""
    found = [
        (who, value)
        for (of, who, called), case in cases.items()
        if (of, called) == (scenario, name) and who not in {_OURS, "limit"}
        for value in [_median(case, metric)]
        if value is not None
    ]
    best = min if metric.endswith("_ms") else max
    return best(found, key=lambda peer: peer[1]) if found else None


def _median(case: dict[str, Any] | None, metric: str) -> float | None:
    told = case["metrics"].get(metric) if case else None
    return told["median"] if told else None
