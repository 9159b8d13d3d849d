"""Finds data of a run to which nothing refers any more."""

from __future__ import annotations

from typing import Any

_SETS = {"pending": "P", "delayed": "D", "running": "R", "open": "R", "ready": "Y", "dead": "X", "rejected": "J"}


def leftovers(dump: dict[str, Any]) -> list[str]:
    """Returns a line for each piece of data in a run's keys to which nothing refers, and for each contradiction.

    Args:
        dump: name of the key -> its value, as `Lab.dump` reads them.
    """
    records = {name.decode(): record.decode().partition(";") for name, record in dump.get("tasks", {}).items()}
    tasks = {name: words.split(",") for name, (words, _, _) in records.items()}
    slots = {f"{name}#0": slot.split(",") for name, (_, _, slot) in records.items() if slot}
    slots |= {name.decode(): record.decode().split(",") for name, record in dump.get("slots", {}).items()}
    return [
        *_of_sets(dump, tasks),
        *_of_hashes(dump, tasks, slots),
        *_of_sessions(dump, tasks, slots),
        *_of_results(dump, tasks, slots, int(dump["state"][b"version"])),
    ]


def _letter(task: list[str], k: int) -> str:
    return task[12][k] if task[12] else "O"


def _of_sets(dump: dict[str, Any], tasks: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for name, wanted in _SETS.items():
        for member in dump.get(name, {}):
            task = tasks.get(member.decode())
            if task is None or task[0] != wanted:
                found.append(f"{name} has {member.decode()}, which is in state {task and task[0]}")
    for name, members in dump.items():
        if name.startswith("batch:"):
            for member in members:
                task = tasks.get(member.decode())
                if task is None or task[0] != "B" or task[11] != name.partition(":")[2]:
                    found.append(f"{name} has {member.decode()}, which is {task}")
    return found


def _of_hashes(dump: dict[str, Any], tasks: dict[str, list[str]], slots: dict[str, list[str]]) -> list[str]:
    found = [f"payload of {name.decode()}" for name in dump.get("payloads", {}) if name.decode() not in tasks]
    found += [f"no payload of {name}" for name in tasks if name.encode() not in dump.get("payloads", {})]
    found += [f"slot {name}" for name in slots if name.partition("#")[0] not in tasks]
    for name in dump.get("reasons", {}):
        task = tasks.get(name.decode())
        if task is None or task[0] not in "XJ":
            found.append(f"reason of {name.decode()}, which is {task}")
    found += [
        f"{name} ended without a reason"
        for name, task in tasks.items()
        if task[0] in "XJ" and name.encode() not in dump.get("reasons", {})
    ]
    for member in dump.get("retries", {}):
        name, _, k = member.decode().rpartition("#")
        if name not in tasks or _letter(tasks[name], int(k)) != "W":
            found.append(f"retry of {member.decode()}, which does not wait")
    if set(dump.get("requests", {})) != set(dump.get("request_order", {})):
        found.append("requests and request_order differ")
    if len(dump.get("requests", {})) > 64:
        found.append(f"{len(dump['requests'])} requests are remembered")
    return found


def _of_sessions(dump: dict[str, Any], tasks: dict[str, list[str]], slots: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    sessions, calls = set(dump.get("sessions", {})), set(dump.get("calls", {}))
    if sessions != calls:
        found.append(f"sessions and calls differ by {sessions ^ calls}")
    if ended := set(dump.get("leases", {})) - sessions:  # a session that an older release began is not among them
        found.append(f"leases of no session: {ended}")
    if ended := (set(dump.get("ailing", {})) | set(dump.get("quarantine", {}))) - sessions:
        found.append(f"failures of no session: {ended}")
    held: set[str] = set()
    for name, members in dump.items():
        if name.startswith("session:"):
            if name.partition(":")[2].encode() not in sessions:
                found.append(f"{name} of no session")
            held |= {member.decode() for member in members}
    for attempt in held | {member.decode() for member in dump.get("deadlines", {})}:
        task, _, rest = attempt.partition("#")
        k, claims, random = rest.split(".")
        slot = slots.get(f"{task}#{k}")
        if (
            task not in tasks
            or _letter(tasks[task], int(k)) != "H"
            or slot is None
            or slot[:1] + slot[2:3] != [claims, random]
        ):
            found.append(f"{attempt} is counted as held")
    return found


def _of_results(
    dump: dict[str, Any], tasks: dict[str, list[str]], slots: dict[str, list[str]], version: int
) -> list[str]:
    """Only the bytes of done slots may be there, until the advance after their own."""
    wanted: set[str] = set()
    for name, slot in slots.items():
        task_id, _, k = name.rpartition("#")
        task = tasks.get(task_id)
        if task is None or _letter(task, int(k)) != "D" or task[0] not in "RYB":
            continue
        if task[0] != "B" or int(task[11]) >= version - 1:
            wanted.add(f"result:{name}.{slot[0]}.{slot[2]}")
    there = {name for name in dump if name.startswith("result:")}
    return [f"bytes of nothing: {name}" for name in sorted(there - wanted)] + [
        f"no bytes of a result: {name}" for name in sorted(wanted - there)
    ]
