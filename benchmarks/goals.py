"""The goals, and whether a run reached them: multiples of the reference, multiples of a limit, or plain bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Outcome
from benchmarks.quantiles import median

#: scenario, who, name, metric.
Place = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Goal:
    """One bound.

    Args:
        text: the goal in words.
        of: the measured value.
        bound: the value to reach.
        at_least: whether more is better.
        to: a value of the same round by which the measured value is divided; None: see unit.
        unit: `x ref`: the value is divided by the reference; any other: the unit of the value.
    """

    text: str
    of: Place
    bound: float
    at_least: bool = True
    to: Place | None = None
    unit: str = "x ref"


def _cycle(name: str, who: str = "ours") -> Place:
    return ("cycle", who, name, "rate_per_s")


def _enqueue(name: str) -> Place:
    return ("enqueue", "ours", name, "rate_per_s")


def _latency(metric: str, who: str = "ours", name: str = "loop") -> Place:
    return ("latency", who, name, metric)


def _at_most(text: str, of: Place, bound: float, to: Place | None = None, unit: str = "") -> Goal:
    return Goal(text, of, bound, at_least=False, to=to, unit=unit)


GOALS: tuple[Goal, ...] = (
    Goal("full cycle, loop", _cycle("loop"), 1.3),
    Goal("full cycle, asyncio, 32 in flight", _cycle("asyncio, 32 in flight"), 2.4),
    Goal("full cycle, batches of 64", _cycle("batches of 64"), 4.0),
    Goal("full cycle, 4 processes", _cycle("batches of 64, 4 processes"), 7.0),
    Goal("a sample in groups of 8", _cycle("batches of 64, groups of 8"), 1.0, to=_cycle("batches of 64")),
    Goal("AOF everysec", _cycle("batches of 64, AOF everysec"), 0.85, to=_cycle("batches of 64")),
    Goal("enqueue, one at a time", _enqueue("one at a time"), 1.0),
    Goal("enqueue, batches of 64", _enqueue("batches of 64"), 12.0),
    _at_most(
        "enqueue -> start, p50, of the minimum",
        _latency("start_p50_ms"),
        1.2,
        _latency("start_p50_ms", "limit", "redis-py"),
    ),
    _at_most("enqueue -> result, p50", _latency("result_p50_ms"), 1.5, unit="ms"),
    _at_most("enqueue -> result, p99", _latency("result_p99_ms"), 2.5, unit="ms"),
    *(
        Goal(
            f"results of {size}, of SET + GET",
            ("results", "ours", size, "cycle_mb_per_s"),
            0.8,
            to=("results", "limit", f"{size}, SET + GET, raw", "cycle_mb_per_s"),
        )
        for size in ("1 MiB", "16 MiB")
    ),
    *(
        _at_most(f"server memory of results of {size}", ("results", "ours", size, "memory_x"), 1.05, unit="x")
        for size in ("16 KiB", "256 KiB", "1 MiB", "16 MiB")
    ),
    *(
        _at_most(
            f"stall of others while {size} are written, p99",
            ("results", "ours", f"{size}, others meanwhile", "ping_p99_ms"),
            5.0,
            unit="ms",
        )
        for size in ("1 MiB", "16 MiB")
    ),
    _at_most(
        "next_batch of 1,024 x 256 KiB, of MGET",
        ("trainer", "ours", "next_batch", "last_ms"),
        1.3,
        ("trainer", "limit", "MGET, redis-py", "last_ms"),
    ),
    *(
        _at_most(
            f"server time per cycle, {name}",
            ("server", "ours", name, "cycle_us"),
            2.0,
            ("server", "limit", name, "cycle_us"),
        )
        for name in ("one at a time", "batches of 64")
    ),
    *(
        _at_most(
            f"{call} with 1 M waiting, of 1 k",
            ("backlog", "ours", "1,000,000 waiting", f"{call}_to_1k_x"),
            1.2,
            unit="x",
        )
        for call in ("enqueue", "claim", "submit", "enqueue_of_64", "claim_of_64", "submit_of_64")
    ),
    _at_most(
        "memory of a waiting task beside its payload",
        ("backlog", "ours", "1,000,000 waiting", "memory_per_waiting_bytes"),
        300,
        unit="bytes",
    ),
    _at_most(
        "more for a running attempt",
        ("backlog", "ours", "1,000,000 waiting", "memory_per_held_bytes"),
        500,
        unit="bytes",
    ),
    _at_most(
        "heartbeats of 10,000 sessions, of a core",
        ("heartbeats", "ours", "10,000 sessions", "core_share_cpu_x"),
        0.05,
        unit="x",
    ),
    _at_most(
        "the same, with waiting for what is taken back",
        ("heartbeats", "ours", "10,000 sessions", "with_waits_cpu_x"),
        0.1,
        unit="x",
    ),
    *(
        _at_most(f"slowest script, {what}", (scenario, "ours", name, metric), 10.0, unit="ms")
        for what, scenario, name, metric in (
            ("backlog", "backlog", "1,000,000 waiting", "slowest_script_ms"),
            ("heartbeats", "heartbeats", "10,000 sessions", "slowest_script_ms"),
            ("recovery", "recovery", "1,000,000 tasks", "recover_slowest_script_ms"),
            ("audit", "recovery", "1,000,000 tasks", "audit_slowest_script_ms"),
        )
    ),
    _at_most(
        "codec, of NumPy bytes with a header",
        ("codec", "ours", "NumPy arrays", "both_us"),
        1.5,
        ("codec", "limit", "NumPy bytes with a header", "both_us"),
    ),
    _at_most("codec, size of raw", ("codec", "ours", "NumPy arrays", "size_to_raw_x"), 1.02, unit="x"),
    _at_most(
        "import of broker, of redis and pydantic",
        ("imports", "ours", "import broker", "import_ms"),
        1.3,
        ("imports", "limit", "redis and pydantic", "import_ms"),
    ),
)


#: The broker's cases that are compared with peers: one process, all guarantees and events, single tasks.
_IN_ONE_PROCESS = ("loop", "asyncio, 32 in flight", "batches of 64")


def judged(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The goals whose values this run has, each with the measured value and whether it was reached."""
    by_place = {(o.case.scenario, o.case.who, o.case.name): o for o in outcomes}
    found: list[dict[str, Any]] = []
    for goal in GOALS:
        values = _measured(goal, by_place)
        if values:
            value = median(values)
            reached = value >= goal.bound if goal.at_least else value <= goal.bound
            unit = "x" if goal.to else goal.unit
            found.append({"goal": goal.text, "bound": goal.bound, "at_least": goal.at_least, "unit": unit,
                          "median": value, "min": min(values), "max": max(values), "reached": reached})  # fmt: skip
    return found + _beside_peers(outcomes)


def _measured(goal: Goal, by_place: dict[tuple[str, str, str], Outcome]) -> list[float]:
    outcome = by_place.get(goal.of[:3])
    if outcome is None:
        return []
    if goal.to is None:
        return outcome.times_ref(goal.of[3]) if goal.unit == "x ref" else outcome.values(goal.of[3])
    other = by_place.get(goal.to[:3])
    if other is None:
        return []
    # Values of the same round, which both come from the same minute of the machine.
    theirs = {r.round: r.values[goal.to[3]] for r in other.repetitions if goal.to[3] in r.values}
    return [
        r.values[goal.of[3]] / theirs[r.round]
        for r in outcome.repetitions
        if theirs.get(r.round) and goal.of[3] in r.values
    ]


@dataclass(frozen=True, slots=True)
class Beside:
    """A comparison of the broker with the best peer of the run, each in its best way, by rates or times.

    Multiples of ref do not serve here: how fast two processes exchange messages says little about rates that the
    server's processor or the peer's own code bounds.

    Args:
        text: the comparison in words.
        scenario: the scenario of the cases.
        metric: the value compared; rates are to be larger, times smaller.
        is_ours: whether a case of the broker counts, by its name.
        theirs: the name of the peers' case; None: their only case.
        bound: the goal, as a multiple of the best peer's value.
    """

    text: str
    scenario: str
    metric: str
    is_ours: Callable[[str], bool]
    theirs: str | None
    bound: float = 1.0


BESIDE_PEERS: tuple[Beside, ...] = (
    Beside("full cycle, one process", "cycle", "rate_per_s", _IN_ONE_PROCESS.__contains__, "a worker process", 3.5),
    Beside(
        "full cycle, 4 processes", "cycle", "rate_per_s", lambda name: name.endswith(", 4 processes"), "4 processes", 10
    ),
    Beside("enqueue, one at a time", "enqueue", "rate_per_s", "one at a time".__eq__, "one at a time"),
    Beside("enqueue, batches", "enqueue", "rate_per_s", "one at a time".__ne__, "batches of 64"),
    Beside("enqueue -> start p50", "latency", "start_p50_ms", "loop".__eq__, None),
    Beside("enqueue -> result p50", "latency", "result_p50_ms", "loop".__eq__, None),
    Beside("enqueue -> result p99", "latency", "result_p99_ms", "loop".__eq__, None),
)


def _beside_peers(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for goal in BESIDE_PEERS:
        more = goal.metric.endswith("per_s")
        ours_found, peers_found = list[tuple[float, str]](), list[tuple[float, str]]()
        for outcome in outcomes:
            case, values = outcome.case, outcome.values(goal.metric)
            if case.scenario != goal.scenario or not values or case.who == "limit":
                continue
            if case.who == "ours":
                if goal.is_ours(case.name):
                    ours_found.append((median(values), case.name))
            elif goal.theirs in {case.name, None}:
                peers_found.append((median(values), case.who))
        if ours_found and peers_found:
            best = max if more else min
            (ours, name), (peer, who) = best(ours_found), best(peers_found)
            value = ours / peer
            reached = value >= goal.bound if more else value <= goal.bound
            found.append({"goal": f"{goal.text}, of the best peer ({who}; ours: {name})", "bound": goal.bound,
                          "at_least": more, "unit": "x", "median": value, "min": value, "max": value,
                          "reached": reached})  # fmt: skip
    return found
