"""How long generation takes: the quantiles of the attempts whose results were accepted, from the server's histogram."""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors.words import duration, listing

#: With fewer accepted attempts, a held one is compared with none.
FEW = 8
#: A held attempt is slow from so many times the median on.
SLOW = 2.0
#: A held attempt is a straggler from so many times the median on, and so many times what 99% of the others took.
STRAGGLES, STRAGGLES_P99 = 4.0, 2.0


def buckets_of(stored: Mapping[str, str]) -> dict[int, int]:
    """The histogram, from the fields that the script `stats` answers: bucket -> number of attempts.

    Bucket b is for 2^(b/2) to 2^((b+1)/2) milliseconds. A run of an earlier release has none before its next result.
    """
    return {int(name[5:]): int(number) for name, number in stored.items() if name.startswith("time_")}


def lost_s(stored: Mapping[str, str]) -> dict[str, float]:
    """How long attempts generated in vain, in seconds by cause, the largest first; from the script `stats`."""
    found = {name[8:]: int(ms) / 1000 for name, ms in stored.items() if name.startswith("ms_lost_") and int(ms) > 0}
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def mean_s(stored: Mapping[str, str]) -> dict[str, float]:
    """The mean length of attempts, in seconds: `kept` of the results that were kept, `started` of all that ended.

    An attempt that was cut off counts with the time that it had: what was started is at least so long.
    """

    def number(name: str) -> int:
        return int(stored.get(name) or 0)

    lost_ms = sum(int(ms) for name, ms in stored.items() if name.startswith("ms_lost_"))
    kept, started = number("n_results") - number("n_thrown"), number("n_results") + number("n_cut")
    kept_ms = number("ms_results") - number("ms_thrown")
    found: dict[str, float] = {}
    if kept > 0:
        found["kept"] = kept_ms / kept / 1000
    if started > 0:
        found["started"] = (kept_ms + lost_ms) / started / 1000
    return found


def lost_told(lost: Mapping[str, float], mean: Mapping[str, float]) -> str:
    """What was generated in vain, and whose results were kept, in sentences; empty if nothing was lost."""
    if not lost:
        return ""
    causes = listing([f"{cause} {duration(seconds)}" for cause, seconds in lost.items()])
    told = f"Generated in vain: {causes}."
    if "kept" in mean:
        told += f" Kept results took {duration(mean['kept'])} in the mean, all attempts "
        told += f"{duration(mean['started'])} or more."
    return told


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


def straggles(held_s: float, generation_s: Mapping[str, float], finished: int) -> bool:
    """Whether a held attempt takes much longer than the finished ones did: nobody need look at their slowest 1%."""
    median_s = generation_s.get("p50")
    if not median_s or finished < FEW:
        return False
    return held_s >= STRAGGLES * median_s and held_s >= STRAGGLES_P99 * generation_s.get("p99", 0.0)


def quantiles_told(generation_s: Mapping[str, float]) -> str:
    """The quantiles for people: `p50 12 s, p90 40 s, p99 2 min`; below a tenth of a second in milliseconds."""
    return ", ".join(
        f"{name} {duration(seconds) if seconds >= 0.0995 else f'{seconds * 1000:.0f} ms'}"
        for name, seconds in generation_s.items()
    )
