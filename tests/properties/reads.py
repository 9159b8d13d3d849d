"""The script calls that only read, against the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.protocol import anyone, task_row
from broker.protocol.script_call import ScriptCall

from .ghost import capacity, require
from .view import View

Execute = Callable[[ScriptCall[Any]], Any]
SIZES = ("pending", "delayed", "retries", "open", "ready", "sessions", "dead", "rejected", "tasks")


def compare_reads(execute: Execute, run: str, view: View, now: int) -> None:
    """Reads audit, check, batch, task and stats. Raises Violation if one of them contradicts the view."""
    for name, (stored, found) in execute(anyone.audit(run, now=now)).items():
        require(stored == found, f"audit: {name} is {stored}, recomputed {found}")
    if view["tasks"]:
        problems = execute(anyone.check(run, sorted(view["tasks"]), now=now))
        require(not problems, f"check: {problems}")
    for step, names in view["batches"].items():
        piece = execute(anyone.batch(run, step, 0, 100, now=now))
        require([row.task for row in piece.rows] == names, f"batch {step}: {piece} is not {names}")
        require(piece.sealed == (step in view["sealed"]), f"batch {step}: {piece}")
        require(piece.sealed_ms == view["sealed"].get(step, [0, 0])[1], f"batch {step}: {piece}")
        for row in piece.rows:
            task = view["tasks"][row.task]
            done = [[index, slot[3], slot[4][0]] for index, slot in enumerate(task["slots"]) if slot[0] == "D"]
            require([[s.slot, s.attempt_id, s.version] for s in row.samples] == done, f"batch {step}: {row}")
            require((row.oldest, row.newest) == (task["oldest"], task["newest"]), f"batch {step}: {row}")
    for name, task in view["tasks"].items():
        row = execute(task_row.task(run, name, now=now))
        require(row is not None and row.requeues == task["requeues"], f"task: {row}")
    stats = execute(anyone.stats(run, now=now))
    require(int(stats["capacity"]) == capacity(view), f"stats: capacity {stats['capacity']}, not {capacity(view)}")
    times = {int(name[5:]): int(number) for name, number in stats.items() if name.startswith("time_")}
    require(times == view["times"], f"stats: times {times}, not {view['times']}")
    for name in SIZES:
        size = int(stats[f"n_{name}"])
        require(size == len(view[name]), f"stats: {name} is {size}, not {len(view[name])}")
