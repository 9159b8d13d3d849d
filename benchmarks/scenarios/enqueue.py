"""Enqueue: one task a call, and 64 tasks a call."""

from __future__ import annotations

import time

import hiredis

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.lab import Lab
from broker import Trainer


def cases(lab: Lab) -> list[Case]:
    """The broker and the limit; peers have a module of their own."""
    one, many = lab.size(1500, 200), lab.size(12800, 640)

    def ours_one() -> dict[str, float]:
        with Trainer(lab.url, lab.run_name(), ours.config(one)) as trainer:
            new = list(ours.tasks(one))
            started = time.perf_counter()
            for task in new:
                trainer.enqueue(task)
            return {"rate_per_s": one / (time.perf_counter() - started)}

    def ours_bulk() -> dict[str, float]:
        with Trainer(lab.url, lab.run_name(), ours.config(many)) as trainer:
            new = list(ours.tasks(many))
            started = time.perf_counter()
            for first in range(0, many, ours.BATCH):
                trainer.enqueue(new[first : first + ours.BATCH])
            return {"rate_per_s": many / (time.perf_counter() - started)}

    def ours_stream() -> dict[str, float]:
        with Trainer(lab.url, lab.run_name(), ours.config(many)) as trainer:
            started = time.perf_counter()
            trainer.enqueue(ours.tasks(many))
            return {"rate_per_s": many / (time.perf_counter() - started)}

    def bare(total: int, piece: int) -> dict[str, float]:
        started = time.perf_counter()
        for first in range(0, total, piece):
            lab.control.send(hiredis.pack_command(lab.bare.enqueue_call(first, piece)))
            lab.control.receive(1)
        return {"rate_per_s": total / (time.perf_counter() - started)}

    return [
        Case("enqueue", "one at a time", "ours", ours_one),
        Case("enqueue", "one at a time", "limit", lambda: bare(one, 1)),
        Case("enqueue", "batches of 64", "ours", ours_bulk),
        Case("enqueue", "a generator", "ours", ours_stream),
        Case("enqueue", "batches of 64", "limit", lambda: bare(many, ours.BATCH)),
    ]
