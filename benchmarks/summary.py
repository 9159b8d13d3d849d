"""The few numbers of a README: those that users notice first, beside the limit or the best peer of the same runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.report import number

#: scenario, who, name -> the case as a run's document has it.
Cases = Mapping[tuple[str, str, str], dict[str, Any]]

_OURS = "ours"


class _Row(NamedTuple):
    """A row: one case of the broker, beside the best peer's case or a limit's."""

    text: str
    scenario: str
    name: str
    metric: str
    unit: str
    peers: str = ""
    limit: str = ""


_ROWS = (
    _Row("enqueued, 64 a call", "enqueue", "batches of 64", "rate_per_s", "/s", peers="batches of 64"),
    _Row(
        "claimed, done, accepted: one worker, 64 a call",
        "cycle", "batches of 64", "rate_per_s", "/s", peers="a worker process",
    ),
    _Row("the same, four workers", "cycle", "batches of 64, 4 processes", "rate_per_s", "/s", peers="4 processes"),
    _Row("the same, asyncio, 32 in flight", "cycle", "asyncio, 32 in flight", "rate_per_s", "/s"),
    _Row("the same, one at a time", "cycle", "loop", "rate_per_s", "/s"),
    _Row("idle worker starts after", "latency", "loop", "start_p50_ms", " ms", peers="an idle worker"),
    _Row("trainer has the result after", "latency", "loop", "result_p50_ms", " ms", peers="an idle worker"),
    _Row(
        "results of 1 MiB, written and read",
        "results", "1 MiB", "cycle_mb_per_s", " MB/s", limit="1 MiB, SET + GET, raw",
    ),
    _Row("`next_batch` of 1,024 x 256 KiB", "trainer", "next_batch", "last_ms", " ms", limit="MGET, redis-py"),
    _Row(
        "memory of a waiting task beside its payload, 1 M waiting",
        "backlog", "1,000,000 waiting", "memory_per_waiting_bytes", " bytes",
    ),
)  # fmt: skip


def rows(cases: Cases) -> list[tuple[str, str, str]]:
    """The rows that were measured: text, the broker's value, the value beside it."""
    found: list[tuple[str, str, str]] = []
    for row in _ROWS:
        ours = _median(cases.get((row.scenario, _OURS, row.name)), row.metric)
        if ours is not None:
            found.append((row.text, f"{number(ours)}{row.unit}", _beside(cases, row)))
    return found


def _beside(cases: Cases, row: _Row) -> str:
    best = _best_peer(cases, row.scenario, row.peers, row.metric) if row.peers else None
    who, value = best or (row.limit, _median(cases.get((row.scenario, "limit", row.limit)), row.metric))
    return "" if value is None else f"{who}: {number(value)}{row.unit}"


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
