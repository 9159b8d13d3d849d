"""Many tasks waiting: the cost of an operation, beside a small run on the same server; and memory.

The server's hash tables grow in steps. When a table has become too small, each call that touches the table moves a part
of it to a table twice as large. (With 1 M tasks, Valkey 9 does so from 917,505 to about 1,048,000 tasks.) All calls are
measured while the tables grow, and after they have grown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import ours
from benchmarks.bare import PAYLOAD
from benchmarks.cases import Case
from benchmarks.commandstats import spent
from benchmarks.lab import Lab
from benchmarks.probes import slowest_script
from broker import Attempt, Task, Trainer, Worker
from broker.protocol import keys

SMALL = 1000
#: Rounds of each kind of call, alternating between the large and the small run.
CALLS = 200
BATCHES = 24


def cases(lab: Lab) -> list[Case]:
    """100 k and 1 M tasks waiting, beside 1 k."""
    sizes = (2_000, 20_000) if lab.quick else (100_000, 1_000_000)
    return [
        Case("backlog", f"{size:,} waiting", "ours", partial(_ours, lab, size), repeat=1 if size > 500_000 else None)
        for size in sizes
    ]


class _Side:
    """One of the two runs."""

    def __init__(self, lab: Lab, size: int) -> None:
        self.run, self.size, self._next = lab.run_name(), size, size
        before = lab.memory_bytes()
        self.trainer = Trainer(lab.url, self.run, ours.config(max(size, 10_000)))
        self.trainer.enqueue(ours.tasks(size))
        self.memory = lab.memory_bytes() - before
        self.worker = Worker(lab.url, self.run, heartbeat=False)
        self.micros: dict[str, list[float]] = {}
        self.held: list[Attempt] = []

    def enqueue(self, n: int) -> None:
        self.trainer.enqueue([Task(id=f"t{self._next + i}", payload=PAYLOAD) for i in range(n)])
        self._next += n

    def claim(self, n: int) -> None:
        self.held = self.worker.claim(n)
        assert len(self.held) == n

    def submit(self, n: int) -> None:
        self.worker.submit_many([(attempt, ours.RESULT) for attempt in self.held])

    def settle(self, lab: Lab) -> None:
        """Lets the server finish moving its tables: each read of a table moves a part."""
        names = [f"t{i}" for i in range(self._next)]
        for first in range(0, len(names), 1000):
            some = names[first : first + 1000]
            for hash_ in ("tasks", "payloads"):
                lab.control.call("HMGET", keys.key(self.run, hash_), *some)
            lab.control.call("ZMSCORE", keys.key(self.run, "pending"), *some)

    def close(self) -> None:
        self.worker.close()
        self.trainer.close()


def _ours(lab: Lab, size: int) -> dict[str, float]:
    with slowest_script(lab.control) as slow:
        large, small = _Side(lab, size), _Side(lab, SMALL)
        values = {"memory_per_waiting_bytes": large.memory / size - len(PAYLOAD)}
        growing: dict[str, float] = {}
        _alternate(lab, growing, large, small, ours.BATCH, BATCHES, "_of_64")
        values |= {f"as_it_grew_{name}": value for name, value in growing.items()}
        large.settle(lab)
        for n, rounds, suffix in ((1, CALLS, ""), (ours.BATCH, BATCHES, "_of_64")):
            _alternate(lab, values, large, small, n, rounds, suffix)
        values["memory_per_held_bytes"] = _memory_per_held(lab, large)
        large.close()
        small.close()
    return {**values, **slow}


def _alternate(
    lab: Lab, values: dict[str, float], large: _Side, small: _Side, n: int, rounds: int, suffix: str
) -> None:
    used: dict[tuple[str, int], list[int]] = {}
    for _ in range(rounds):
        for index, side in enumerate((large, small)):
            calls: tuple[Callable[[int], None], ...] = (side.enqueue, side.claim, side.submit)
            for call in calls:
                with spent(lab.control) as counted:
                    call(n)
                used.setdefault((call.__name__, index), []).append(counted.micros)
    for name in ("enqueue", "claim", "submit"):
        # The median of single calls, which disturbances by other programs hardly change.
        mine, theirs = (sorted(used[name, index])[rounds // 2] for index in (0, 1))
        values[f"{name}{suffix}_us"] = mine / n
        values[f"{name}{suffix}_to_1k_x"] = mine / theirs


def _memory_per_held(lab: Lab, side: _Side) -> float:
    """Memory for each running attempt, beyond the memory of its waiting task."""
    count = min(side.size // 2, 20_000)
    before = lab.memory_bytes()
    held = 0
    while held < count:
        held += len(side.worker.claim(500))
    return (lab.memory_bytes() - before) / held
