"""The scenarios, each a module with `cases(lab)`."""

from __future__ import annotations

from importlib import import_module

from benchmarks import peers
from benchmarks.cases import Case
from benchmarks.lab import Lab

#: All scenarios, in the order in which they run.
NAMES = (
    "enqueue", "steady", "cycle", "latency", "results", "backlog", "heartbeats", "trainer", "server", "anatomy",
    "budget", "recovery", "codec", "imports",
)  # fmt: skip


def cases_of(name: str, lab: Lab) -> list[Case]:
    """The cases of one scenario: ours, the limits, the peers'."""
    return [*import_module(f"benchmarks.scenarios.{name}").cases(lab), *peers.cases(lab, name)]
