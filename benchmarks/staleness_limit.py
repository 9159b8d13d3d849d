"""Where to put the hard bound of staleness: a simulation of events, with the capacity rule of the broker and no server.

    python -m benchmarks.staleness_limit

Prompts have fixed lengths, log-normal with a long tail. A trainer takes B finished rollouts, the oldest first, trains
for a while, and advances. A rollout that is staler than D for the next step starts over, with the same length. After
`max_stale_requeues` the prompt is given up.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
from dataclasses import dataclass, field

#: The default of the config.
MAX_STALE_REQUEUES = 10


@dataclass
class Seen:
    """What a simulated run has come to."""

    steps: int = 0
    hours: float = 0.0
    wasted_s: float = 0.0
    used_s: float = 0.0
    lengths: list[float] = field(default_factory=list[float])
    staleness: list[int] = field(default_factory=list[int])


@dataclass(order=True)
class _Rollout:
    """One prompt. Its order is that of the data; a prompt that starts over keeps its place."""

    order: int
    length_s: float
    began_s: float = 0.0
    version: int = -1
    requeues: int = 0


def simulate(
    *, s: int, d: int, batch: int, places: int, train_s: float, mean_s: float, sigma: float, steps: int, seed: int
) -> Seen:
    """Runs `steps` steps with admission by `s`, and requeues what is staler than `d`."""
    rng, seen = random.Random(seed), Seen()
    mu = math.log(mean_s) - sigma * sigma / 2
    again: list[_Rollout] = []  # prompts that start over, before new ones
    running: dict[int, _Rollout] = {}
    ends: list[tuple[float, int, int]] = []  # when, order, version
    ready: list[tuple[int, _Rollout]] = []  # by first claim
    first: dict[int, int] = {}
    now, version, step_next, enqueued, claims = 0.0, 0, 0, 0, 0
    trained_at = math.inf
    while seen.steps < steps:
        formed = batch * (step_next - version)
        while len(running) < places and (s + version + 1) * batch > version * batch + len(ready) + formed + len(
            running
        ):
            if again:
                one = heapq.heappop(again)
            else:
                one = _Rollout(enqueued, rng.lognormvariate(mu, sigma))
                enqueued += 1
            one.began_s, one.version = now, version
            first[one.order] = claims
            claims += 1
            running[one.order] = one
            heapq.heappush(ends, (now + one.length_s, one.order, version))
        if step_next == version and len(ready) >= batch:
            for _ in range(batch):
                _, one = heapq.heappop(ready)
                seen.used_s += one.length_s
                seen.lengths.append(one.length_s)
                seen.staleness.append(step_next - one.version)
            step_next += 1
            trained_at = now + train_s
            late = [one for one in running.values() if step_next - one.version > d]
            seen.wasted_s += sum(now - one.began_s for one in late)
            for one in late:
                del running[one.order]
            late += (old := [one for _, one in ready if step_next - one.version > d])
            seen.wasted_s += sum(one.length_s for one in old)
            for one in late:
                one.requeues += 1
                if one.requeues <= MAX_STALE_REQUEUES:
                    heapq.heappush(again, one)
            ready = [(at, one) for at, one in ready if step_next - one.version <= d]
            heapq.heapify(ready)
            continue
        if ends and ends[0][0] <= trained_at:
            now, order, made_by = heapq.heappop(ends)
            if order in running and running[order].version == made_by:
                heapq.heappush(ready, (first[order], running.pop(order)))
            continue
        now, trained_at, version = trained_at, math.inf, version + 1
        seen.steps += 1
    seen.hours = now / 3600
    return seen


def main() -> None:
    """Prints a table: for each S and D the speed, the waste, the bias of length and the staleness."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--places", type=int, default=256)
    parser.add_argument("--train-s", type=float, default=40)
    parser.add_argument("--mean-s", type=float, default=60)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sigma", type=float, nargs="+", default=[1.0, 1.5])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lines = ["sigma  S   D  steps/h  thrown away  mean length, of the data's  mean staleness  worst"]
    for sigma in options.sigma:
        for s in (1, 2, 4):
            for times in (1, 2, 4, 8):
                seen = simulate(
                    s=s, d=s * times, batch=options.batch, places=options.places, train_s=options.train_s,
                    mean_s=options.mean_s, sigma=sigma, steps=options.steps, seed=options.seed,
                )  # fmt: skip
                share = seen.wasted_s / (seen.wasted_s + seen.used_s)
                length = sum(seen.lengths) / len(seen.lengths) / options.mean_s
                mean = sum(seen.staleness) / len(seen.staleness)
                lines.append(
                    f"{sigma:5} {s:2} {s * times:3} {seen.steps / seen.hours:8.0f} {share:12.0%} {length:27.2f}"
                    f" {mean:15.1f} {max(seen.staleness):6}"
                )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
