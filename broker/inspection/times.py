"""How long generation takes: the quantiles of the attempts whose results were accepted, from the server's histogram."""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors.words import duration

#: With fewer accepted attempts, a held one is compared with none.
FEW = 8
#: A held attempt is slow from so many times the median on.
SLOW = 2.0


def buckets_of(stored: Mapping[str, str]) -> dict[int, int]:
    """The histogram, from the fields that the script `stats` answers: bucket -> number of attempts.

    Bucket b is for 2^(b/2) to 2^((b+1)/2) milliseconds. A run of an earlier release has none before its next result.
    """
    return {int(name[5:]): int(number) for name, number in stored.items() if name.startswith("time_")}


def quantile_s(buckets: Mapping[int, int], part: float) -> float | None:
    """The time, in seconds, within which that part of the attempts ended: the middle of its bucket, right within 19%.

    Args:
        buckets: the histogram.
        part: 0 to 1.

    Returns:
        None if there are no attempts.
    """
    left = part * sum(buckets.values())
    for bucket, number in sorted(buckets.items()):
        left -= number
        if left <= 0:
            return 2 ** ((bucket + 0.5) / 2) / 1000
    return None


def compared(held_s: float, median_s: float | None, finished: int) -> str:
    """How long an attempt has been held, next to the finished ones: `40 times the median`; empty if it is not slow.

    Args:
        held_s: for how long it has been held, seconds.
        median_s: of the finished ones, seconds.
        finished: how many there are.
    """
    if not median_s or finished < FEW or held_s < SLOW * median_s:
        return ""
    times = held_s / median_s
    return f"{times:,.0f} times the median" if times >= 10 else f"{times:.1f} times the median"


def quantiles_told(generation_s: Mapping[str, float]) -> str:
    """The quantiles for people: `p50 12 s, p90 40 s, p99 2 min`."""
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in generation_s.items())
