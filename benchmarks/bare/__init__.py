"""The physical limit: the least work of a queue with leases and results, without the broker's guarantees."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hiredis

from benchmarks.resp import RawClient

#: The payload of a task and the result of a no-op, wherever sizes do not matter.
PAYLOAD = b"p" * 64
RESULT = b"r" * 64

STATE, PENDING, LEASES, READY = "bare:state", "bare:pending", "bare:leases", "bare:ready"
PAYLOADS, ATTEMPTS, TASK = "bare:payloads", "bare:attempts", "bare:task:"


def source(name: str) -> str:
    """The text of a bare script."""
    return (Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8")


class Bare:
    """The bare scripts over a raw connection.

    Args:
        client: the connection.
    """

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.sha = {path.stem: self._load(path.stem) for path in Path(__file__).parent.glob("*.lua")}

    def _load(self, name: str) -> str:
        return self.client.call("SCRIPT", "LOAD", source(name)).decode()

    def seed(self, count: int) -> None:
        """Makes tasks for `claim_call`."""
        for first in range(0, count, 1000):
            piece = min(1000, count - first)
            self.client.call("EVALSHA", self.sha["seed"], 1, PENDING, TASK, first, piece, PAYLOAD)

    def seed_many(self, count: int) -> None:
        """Makes tasks for `claim_many_call`."""
        for first in range(0, count, 1000):
            self.client.call(*self.enqueue_call(first, min(1000, count - first)))

    def enqueue_call(self, first: int, count: int) -> tuple[Any, ...]:
        """The call that enqueues `count` tasks, numbered from `first`."""
        tasks = [word for i in range(first, first + count) for word in (str(i), PAYLOAD)]
        return ("EVALSHA", self.sha["enqueue"], 3, STATE, PENDING, PAYLOADS, *tasks)

    def claim_call(self, n: int = 1) -> tuple[Any, ...]:
        """The call that claims n tasks."""
        return ("EVALSHA", self.sha["claim"], 3, STATE, PENDING, LEASES, TASK, n)

    def submit_call(self, claimed: list[Any], body: bytes = RESULT) -> tuple[Any, ...]:
        """The call that submits results for the answer of a claim."""
        return ("EVALSHA", self.sha["submit"], 3, STATE, LEASES, READY, TASK, *_items(claimed, body))

    def claim_many_call(self, n: int) -> tuple[Any, ...]:
        """The same with variadic commands."""
        return ("EVALSHA", self.sha["claim_many"], 5, STATE, PENDING, LEASES, PAYLOADS, ATTEMPTS, n)

    def submit_many_call(self, claimed: list[Any], body: bytes = RESULT) -> tuple[Any, ...]:
        """The same with variadic commands."""
        return (
            "EVALSHA", self.sha["submit_many"], 4, STATE, LEASES, READY, ATTEMPTS, f"{TASK}result:",
            *_items(claimed, body),
        )  # fmt: skip

    def clear(self) -> None:
        """Deletes the keys of the bare scripts."""
        cursor: Any = b"0"
        while True:
            cursor, found = self.client.call("SCAN", cursor, "MATCH", "bare:*", "COUNT", 2000)
            if found:
                self.client.call("UNLINK", *found)
            if cursor == b"0":
                return


def _items(claimed: list[Any], body: bytes) -> list[Any]:
    items: list[Any] = []
    for i in range(0, len(claimed), 3):
        items += (claimed[i], claimed[i + 1], body)
    return items


def pairs_one_at_a_time(bare: Bare, count: int) -> float:
    """Returns the seconds for `count` claim + submit pairs over the raw socket, each call in a round trip of its own.

    The tasks exist already. `ref` is made of this.
    """
    client = bare.client
    claim = hiredis.pack_command(bare.claim_call())
    started = time.perf_counter()
    for _ in range(count):
        client.send(claim)
        claimed = client.receive(1)[0]
        client.send(hiredis.pack_command(bare.submit_call(claimed)))
        client.receive(1)
    return time.perf_counter() - started
