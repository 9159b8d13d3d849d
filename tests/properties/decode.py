"""Reads the stored state of a run into a view. The layout of records is at the top of `lua/include/record_layout.lua`."""

from __future__ import annotations

from typing import Any

from .view import View

Dump = list[Any]

#: Where the lease clock begins in the stored deadlines (lua/include/timers.lua).
LEASE_ZERO = 70_368_744_177_664

STATES = {
    "P": "pending",
    "D": "delayed",
    "R": "running",
    "Y": "ready",
    "B": "batched",
    "X": "dead",
    "J": "rejected",
}


def _text(value: bytes) -> str:
    return value.decode()


def _pairs(flat: list[bytes]) -> dict[str, bytes]:
    return {_text(flat[i]): flat[i + 1] for i in range(0, len(flat), 2)}


def _scores(flat: list[bytes]) -> dict[str, int]:
    return {_text(flat[i]): int(float(flat[i + 1])) for i in range(0, len(flat), 2)}


def _on_lease_clock(flat: list[bytes]) -> dict[str, int]:
    """Deadlines on the lease clock: without the offset that sets them apart from those of an earlier release."""
    return {name: at - LEASE_ZERO for name, at in _scores(flat).items()}


def view_from_dump(dump: Dump) -> View:
    """The view of a run; empty where there is none.

    `aside` holds what the model does not know; all bytes of results are there with their time to live (ms; -1: none),
    until `claim_results` puts those that somebody still reads where they belong.
    """
    found: dict[str, Any] = {_text(name): value for name, value in dump}
    if "state" not in found:
        return {}
    state = {name: _text(value) if name != "blob" else "" for name, value in _pairs(found["state"]).items()}
    zsets = {name: _scores(found.get(name, [])) for name in ("delayed", "retries")}
    leases = {name: _on_lease_clock(found.get(name, [])) for name in ("deadlines", "sessions")}
    clock = int(state["clock"])
    orders = {name: list(_scores(found.get(name, []))) for name in ("pending", "open", "running", "ready")}
    batches = {int(name[6:]): list(_scores(value)) for name, value in found.items() if name.startswith("batch:")}
    held = {name[8:]: _scores(value) for name, value in found.items() if name.startswith("session:")}
    tasks = _tasks(found)
    stray = {name[7:]: (value[0], int(value[1])) for name, value in found.items() if name.startswith("result:")}
    calls = {name: value.split() for name, value in _pairs(found.get("calls", [])).items()}
    return {
        "run": {
            "version": int(state["version"]),
            "step_next": int(state["step_next"]),
            "epoch": state["epoch"],
            "call": int(state["call"]),
            "accepted": None if state["recovering"] else int(state["accepted"]),
            "running": int(state["running"]),
            "paused": state["paused"],
            "cursor": state["cursor"],
            "supply": state.get("supply", ""),
            "finished": state.get("finished", "") != "",
            "given": _given(state["lineage"], int(state["order_seq"])),
            "held": int(state.get("held", 0)) if state.get("max_concurrent_samples") else None,
            "ages": _ages(state.get("ages", "")) if state["on_stale"] == "wait" else None,
            "wait": _wait(state) if state["on_stale"] == "wait" else None,
            "open_size": None if state["recovering"] else int(state["open_size"]),
            "recovering": int(state["recovering"]) if state["recovering"] else None,
            "floor": int(state["floor"]),
            "checkpoints": sorted(map(int, state["checkpoints"].split())),
            "operator_checkpoints": sorted(map(int, state.get("operator_checkpoints", "").split())),
        },
        "config": {
            "batch": max(1, int(state["consumer_batch_size"])),
            "staleness": int(state["max_staleness"]) if state["max_staleness"] else None,
            "limit": _limit(state),
            "concurrent": max(1, int(state["max_concurrent_rollouts"])),
            "samples": int(state["max_concurrent_samples"]) if state.get("max_concurrent_samples") else None,
            "on_stale": state["on_stale"],
        },
        "policies": {v: e for v, e in _policies(found).items() if v <= int(state["version"])},
        "tasks": tasks,
        **orders,
        **zsets,
        **leases,
        "calls": {name: [int(words[0]), int(words[1])] for name, words in calls.items()},
        "held": held,
        "batches": batches,
        "sealed": {
            step: size_and_time
            for step, size_and_time in _sealed(found).items()
            if step < int(state["recover_limit" if state["recovering"] else "step_next"])
        },
        "dead": sorted(_scores(found.get("dead", []))),
        "rejected": sorted(_scores(found.get("rejected", []))),
        "totals": {
            name[6:]: int(value)
            for name, value in state.items()
            if name.startswith("total_") and name != "total_requests" and value != "0"
        },
        "awaited": _awaited(found, int(state.get("awaited", 0))),
        "streak": _taken(found, "streak") if state.get("streak_results") == state.get("total_results", "0") else {},
        "halted": int(state.get("halted") or 0),
        "halt": _taken(found, "halt"),
        "lengths": {
            name: int(value)
            for name, value in state.items()
            if (name.startswith("ms_") or name in ("n_results", "n_thrown", "n_cut")) and value != "0"
        },
        "times": {int(bucket): int(count) for bucket, count in _pairs(found.get("times", [])).items()},
        "ailing": {name: _ailing(value) for name, value in _pairs(found.get("ailing", [])).items()},
        "quarantine": _scores(found.get("quarantine", [])),
        "results": {},
        "aside": {
            "clocks": (clock, int(state.get("clock_offset", 0)), clock - int(state.get("lease_lag", 0))),
            "shortest_lease": int(state.get("shortest_lease", 0)),
            "leases": _scores(found.get("leases", [])),
            "due": int(state["due"]),
            "want": int(state["want"]),
            "wake": "wake" in found,
            "wake:ready": "wake:ready" in found,
            "revoked": {name[8:] for name in found if name.startswith("revoked:")},
            "stray": stray,
        },
    }


def _taken(found: dict[str, Any], name: str) -> dict[str, dict[int, int]]:
    """The tries that failures took: task -> slot -> how many."""
    slots = {task: _text(entry).split("\n")[0].split()[2] for task, entry in _pairs(found.get(name, [])).items()}
    return {
        task: {int(slot): int(tries) for slot, _, tries in (each.partition(":") for each in words.split(","))}
        for task, words in slots.items()
    }


def _ailing(value: bytes) -> list[int | str]:
    """The failures of a session: results before them, times and end of its quarantine, tasks."""
    results, times, until, *tasks = _text(value).split()
    return [int(results), int(times), int(until), *tasks]


def _awaited(found: dict[str, Any], count: int) -> list[str]:
    names = sorted(_pairs(found.get("awaited", [])))
    assert len(names) == count, f"{names} are waited for, and counted as {count}"
    return names


def _ages(stored: str) -> dict[str, int]:
    """How many tasks are running or ready, by the oldest version of their samples."""
    pairs = (each.split(":") for each in stored.split())
    return {version: int(count) for version, count in pairs}


def _wait(state: dict[str, str]) -> list[int] | None:
    """Of the wait of the next batch: its step, since when, for which version and older, and the newest task then."""
    return [int(word) for word in state.get("wait", "").split()[:4]] or None


def _limit(state: dict[str, str]) -> int | None:
    """D, of docs/protocol.md, Notation."""
    if not state["max_staleness"]:
        return None
    staleness, limit = int(state["max_staleness"]), state.get("staleness_limit")
    if limit is None:
        return staleness
    return max(staleness, int(limit) if limit else 4 * staleness)


def _given(lineage: str, orders: int) -> list[str]:
    """The token of the epoch that gave each order number."""
    given: list[str] = []
    for mark in lineage.split():
        token, _, before = mark.partition(":")
        given[:0] = [token] * (orders - len(given) - int(before))
    return given


def _policies(found: dict[str, Any]) -> dict[int, str]:
    return {int(name): _text(value) for name, value in _pairs(found.get("policies", [])).items() if name.isdigit()}


def _sealed(found: dict[str, Any]) -> dict[int, list[int]]:
    """Size of each sealed batch, and when it was sealed."""
    stored = {int(name): value.split() for name, value in _pairs(found.get("batches", [])).items()}
    return {step: [int(words[0]), int(words[2])] for step, words in stored.items()}


def _tasks(found: dict[str, Any]) -> dict[str, View]:
    others = _pairs(found.get("slots", []))
    payloads = _pairs(found.get("payloads", []))
    reasons = _pairs(found.get("reasons", []))
    faults, errors = _pairs(found.get("faults", [])), _pairs(found.get("errors", []))
    tasks: dict[str, View] = {}
    for name, record in _pairs(found.get("tasks", [])).items():
        words, _, first = (part.split(",") for part in _text(record).partition(";"))
        samples, letters = int(words[3]), words[12] or "O" * int(words[3])
        slots = [first, *(_text(others.get(f"{name}#{index}", b"")).split(",") for index in range(1, samples))]
        over = words[0] in "XJ"
        oldest, newest, step = (int(words[i]) if words[i] != "-1" else None for i in (7, 8, 11))
        task: View = {
            "state": STATES[words[0]],
            "slots": [
                _slot(name, index, letters[index], slot) + _faults(faults.get(name, b""), index)
                for index, slot in enumerate(slots)
            ],
            "payload": payloads.get(name),
            "samples": samples,
            "min_samples": int(words[4].split("/")[0]),
            "enough": _option(words[4], "enough"),
            "timeout_ms": _option(words[4], "timeout_ms"),
            "max_attempts": _option(words[4], "max_attempts"),
            "priority": int(words[1]),
            "order": int(words[2].split("/")[0]),
            "born": int(words[2].split("/")[-1]),
            "errors": int(words[5]),
            "requeues": int(words[10]),
            "step": step,
            "error": _error(errors.get(name)),
        }
        if over:
            task["reason"] = reasons[name].decode()
        else:
            task |= {"first": int(words[6]), "oldest": oldest, "newest": newest, "stale_requeues": int(words[9])}
        tasks[name] = task
    return tasks


def _option(words: str, name: str) -> int | None:
    """An option without a place of its own, `/name=value` behind min_samples; None: the task does not have it."""
    found = [each.partition("=")[2] for each in words.split("/") if each.startswith(f"{name}=")]
    return int(found[0]) if found else None


def _error(stored: bytes | None) -> list[str] | None:
    """The last failed attempt of a task, whose fault it was, and the error."""
    if stored is None:
        return None
    head, _, message = _text(stored).partition("\n")
    attempt, kind, _at, size = head.split()
    return [attempt, kind, message[: int(size)]]


def _faults(text: bytes, index: int) -> list[Any]:
    """The worker faults of a slot: how many, until when their sessions are barred, and these sessions."""
    for each in _text(text).split(";"):
        slot, _, rest = each.partition(" ")
        if slot == str(index):
            faults, until, *sessions = rest.split()
            return [[int(faults), int(until), *sessions]]
    return []


def _slot(task: str, index: int, letter: str, words: list[str]) -> list[Any]:
    if words == [""]:
        return [letter, 0, 0]
    claims, tries, random, version, epoch, session, _at, _why, newest, _newest_epoch = words
    found: list[Any] = [letter, int(claims), int(tries)]
    if letter in "HD":
        found += [f"{task}#{index}.{claims}.{random}", [int(version), epoch], session, int(newest)]
    return found
