"""Ranks of very different speeds train each step together: none waits for ever, and the bound is never exceeded.

`BROKER_TEST_RANKS_S` says for how many seconds they do so. Every 15 seconds one of them is killed; the others are then
ended, and all begin again at the last version, as after the death of a rank under `torchrun`.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack

import pytest

from broker.errors import NoRun
from broker.operator import Operator
from tests.child import Child

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: Shares and mean lengths of a rollout in milliseconds: a fast rank, a slow one, one that trains more than they.
RANKS = [(1, 2), (2, 60), (3, 15)]
B = sum(share for share, _ in RANKS)
FOR_S = float(os.environ.get("BROKER_TEST_RANKS_S", "20"))
KILL_EVERY_S = 15.0
#: Longest time without a step, in seconds; a step takes a tenth of one.
STILL_S = 15.0
#: Most of a look at the run that counts as such time: where a busy machine makes it longer, the ranks stand still too.
_LOOK_S = 0.05


class Life:
    """All ranks, from one version on."""

    def __init__(self, stack: ExitStack, url: str, numbers: list[str], number: int, version: int) -> None:
        self._version = version
        self.ranks = [
            stack.enter_context(
                Child(
                    *("-m", "tests.integrations.areal.rank_child", url, "ranks", f"rank{i}", *numbers),
                    *map(str, (share, mean_ms, len(RANKS), number, version)),
                )
            )
            for i, (share, mean_ms) in enumerate(RANKS)
        ]
        self.ranks[0].wait_until(lambda: all(rank.out for rank in self.ranks), "each has trained a step")

    @property
    def done(self) -> list[int]:
        """The version of each rank."""
        return [self._version + len(rank.out) for rank in self.ranks]

    def end(self, first: Child) -> None:
        """Kills one, then the others."""
        first.kill()
        time.sleep(random.uniform(0, 1))
        for rank in self.ranks:
            rank.kill()
            # Where a killed rank's lease still lives, the new one has less than its share, and says so.
            assert all("share the bound of run ranks" in line for line in rank.err if line.strip()), rank.err


@pytest.mark.parametrize(("concurrent", "staleness"), [(20, 0), (20, 1), (20, 2), (B - 2, 0)])
def test_ranks_of_uneven_speed_go_on_within_the_bound(url: str, concurrent: int, staleness: int) -> None:
    numbers = [str(number) for number in (concurrent, B, staleness)]
    with ExitStack() as stack, Operator(url) as operator:
        life = Life(stack, url, numbers, 0, 0)
        looked_at = killed_at = time.monotonic()
        until = killed_at + FOR_S
        steps, full, lives, still_s = 0, 0, 1, 0.0
        while (now := time.monotonic()) < until:
            still_s, looked_at = still_s + min(now - looked_at, _LOOK_S), now
            time.sleep(0.01)
            try:
                stats = operator.stats("ranks")
            except NoRun:
                continue
            bound = (staleness + stats.version + 1) * B
            assert stats.accepted + stats.running <= bound, stats
            assert stats.running <= concurrent, stats
            full += stats.accepted + stats.running == bound or stats.running == concurrent
            done = life.done  # as far as it has been read
            if min(done) > steps:
                steps, still_s = min(done), 0.0
            if still_s > STILL_S:
                life.ranks[0].fail(f"no step for {STILL_S} s at {done}: {stats}")
            if now - killed_at > KILL_EVERY_S:
                life.end(random.choice(life.ranks))
                life = Life(stack, url, numbers, lives, min(life.done))
                looked_at = killed_at = time.monotonic()
                still_s = 0.0
                lives += 1
        assert steps >= 10
        assert full  # the bound was met, not only kept
        assert lives > 1
        life.end(life.ranks[0])
