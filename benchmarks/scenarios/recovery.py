"""Checkpoint, audit and recovery of 1 M tasks, and how long other clients wait meanwhile."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.probes import felt, slowest_script
from broker import Trainer, Worker

#: Rollouts of one training step.
STEP = 512


def cases(lab: Lab) -> list[Case]:
    """The broker; no peer has these operations."""
    count = lab.size(1_000_000, 5_000)
    return [Case("recovery", f"{count:,} tasks", "ours", partial(_ours, lab, count), repeat=1)]


def _ours(lab: Lab, count: int) -> dict[str, float]:
    run, values = lab.run_name(), dict[str, float]()
    config = ours.config(STEP, retention_steps=100)
    with tempfile.TemporaryDirectory() as directory, Trainer(lab.url, run, config) as trainer:
        path = Path(directory) / "checkpoint.json"
        trainer.enqueue(ours.tasks(count))
        with Worker(lab.url, run) as worker:
            _step(trainer, worker)
            _observed(lab, values, "checkpoint", lambda: trainer.checkpoint(path))
            _step(trainer, worker)  # the step that the recovery undoes
            _observed(lab, values, "audit", lambda: _sound(trainer))
            _observed(lab, values, "recover", lambda: trainer.recover(path))
            _sound(trainer)
            _step(trainer, worker)
        values["checkpoint_file_bytes"] = sum(file.stat().st_size for file in Path(directory).iterdir())
    return values


def _step(trainer: Trainer, worker: Worker) -> None:
    while attempts := worker.claim(64):
        worker.submit_many([(attempt, ours.RESULT) for attempt in attempts])
    trainer.next_batch(timeout=30)
    trainer.advance()


def _sound(trainer: Trainer) -> None:
    audit = trainer.audit()
    assert not audit.problems, audit


def _observed(lab: Lab, values: dict[str, float], name: str, work: Callable[[], object]) -> None:
    with felt(lab.url) as others, slowest_script(lab.control) as slow:
        started = time.perf_counter()
        work()
        values[f"{name}_s"] = time.perf_counter() - started
    values |= {f"{name}_{key}": value for key, value in {**others, **slow}.items()}
