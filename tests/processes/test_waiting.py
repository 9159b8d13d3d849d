"""Slow prompts on real worker processes, in the mode `wait`."""

import pytest

from benchmarks.slow_prompts import EVERY, measure
from tests.conformance.lab import Lab

pytestmark = pytest.mark.processes


def test_slow_prompts_have_their_share_and_none_is_done_twice(live: Lab):
    """A slow prompt takes as long as many steps, so with `requeue` most would start over. Mutants: no_places_are_kept."""
    fields = {"max_staleness": 1, "staleness_limit": 2, "max_concurrent_rollouts": 16, "on_stale": "wait"}
    config = live.config(consumer_batch_size=8, **fields)
    found = measure(live.url, live.run, config, steps=10, unit_s=0.005)
    assert found.requeued == 0
    assert len(found.tasks) == len(set(found.tasks)) == 10 * 8
    assert max(found.staleness) <= 2
    # All that started more than two steps before the end is trained: prompts start in order, 16 are under way at most.
    assert set(range(len(found.tasks) - 16 - 2 * 8)) <= set(found.tasks)
    assert sum(task % EVERY == 0 for task in found.tasks) >= (len(found.tasks) - 16) / EVERY - 1
