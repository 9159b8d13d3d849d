"""Ranks of very different speeds train each step together: none waits for ever, and the bound is never exceeded."""

from __future__ import annotations

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
FOR_S = 20.0
#: Longest time without a step, in seconds; a step takes a tenth of one.
STILL_S = 15.0


@pytest.mark.parametrize(("concurrent", "staleness"), [(20, 0), (20, 1), (20, 2), (B - 2, 0)])
def test_ranks_of_uneven_speed_go_on_within_the_bound(url: str, concurrent: int, staleness: int) -> None:
    numbers = [str(number) for number in (concurrent, B, staleness)]
    with ExitStack() as stack, Operator(url) as operator:
        ranks = [
            stack.enter_context(
                Child(
                    *("-m", "tests.integrations.areal.rank_child", url, "ranks", f"rank{i}", *numbers),
                    *map(str, (share, mean_ms, len(RANKS))),
                )
            )
            for i, (share, mean_ms) in enumerate(RANKS)
        ]
        ranks[0].wait_until(lambda: all(rank.out for rank in ranks), "each has trained a step")
        until = stepped_at = time.monotonic()
        until += FOR_S
        steps, full = 0, 0
        while (now := time.monotonic()) < until:
            time.sleep(0.01)
            try:
                stats = operator.stats("ranks")
            except NoRun:
                continue
            bound = (staleness + stats.version + 1) * B
            assert stats.accepted + stats.running <= bound, stats
            assert stats.running <= concurrent, stats
            full += stats.accepted + stats.running == bound or stats.running == concurrent
            done = min(len(rank.out) for rank in ranks)
            if done > steps:
                steps, stepped_at = done, now
            if now - stepped_at > STILL_S:
                ranks[0].fail(f"no step for {STILL_S} s at {[len(rank.out) for rank in ranks]}: {stats}")
        assert steps >= 10
        assert full  # the bound was met, not only kept
        assert max(len(rank.out) for rank in ranks) - steps <= 1
        for rank in ranks:
            rank.kill()
            assert not rank.err, rank.err
