"""How long rollouts take: a distribution that a user describes, lists in a file, or has in a run's histogram."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

#: The kinds that a description may name, with the names of their numbers.
KINDS: Final = {
    "fixed": ("SECONDS",),
    "lognormal": ("MEAN", "SIGMA"),
    "exponential": ("MEAN",),
    "uniform": ("FROM", "TO"),
}
#: A year, in seconds.
_LONGEST_S: Final = 366 * 86_400.0
_MOST_SIGMA: Final = 5.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths.

    Attributes:
        mean_s: the mean, in seconds.
        told: the distribution in words, with its mean.
        draw: draws a length in seconds.
    """

    mean_s: float
    told: str
    draw: Callable[[random.Random], float]


def lognormal(mean_s: float, sigma: float) -> Lengths:
    """Log-normal lengths by their mean, and the standard deviation of their logarithm."""
    mu = math.log(mean_s) - sigma * sigma / 2
    return Lengths(mean_s, f"log-normal, mean {mean_s:g} s, sigma {sigma:g}", lambda rng: rng.lognormvariate(mu, sigma))


def of_histogram(buckets: Mapping[int, int]) -> Lengths:
    """Lengths of a run's histogram (`broker.inspection.times`), spread evenly over the logarithm within a bucket."""
    found = sorted(buckets.items())
    ends = list(accumulate(number for _, number in found))
    width = math.log(2) / 2
    # The mean of a bucket from a to b, spread so, is (b - a) / ln(b / a).
    total = math.fsum(number * 2 ** (b / 2) * (math.sqrt(2) - 1) / width for b, number in found)

    def draw(rng: random.Random) -> float:
        bucket = found[bisect_left(ends, rng.random() * ends[-1])][0]
        return 2 ** ((bucket + rng.random()) / 2) / 1000

    return Lengths(
        total / ends[-1] / 1000, f"as {ends[-1]:,} accepted attempts took, mean {total / ends[-1] / 1000:.3g} s", draw
    )


def read_lengths(text: str) -> Lengths:
    """Lengths from a description or a file.

    Args:
        text: `lognormal:60:1.5`, parts of a mixture as `0.8*fixed:10+0.2*fixed:200`, or the path of a file that has
            one length in seconds on each line.

    Raises:
        ValueError: it is neither; the text says what is wrong.
    """
    kind = text.partition("*")[2] or text
    if kind.partition(":")[0] in KINDS:
        return _mixture(text)
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"{text!r} is no file, and describes no lengths. A description is {described()}")
    return _of_file(path)


def described() -> str:
    """The forms of a description, for messages."""
    kinds = ", ".join(":".join((name, *numbers)) for name, numbers in KINDS.items())
    return f"{kinds}, or a mixture such as 0.8*fixed:10+0.2*fixed:200"


def _of_file(path: Path) -> Lengths:
    found: list[float] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                word = line.partition("#")[0].strip()
                if word:
                    found.append(_number(word, f"line {number} of {path}", _LONGEST_S))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}") from None
    if not found:
        raise ValueError(f"{path} has no lengths: it needs one number of seconds on each line")
    mean_s = math.fsum(found) / len(found)
    told = f"drawn from the {len(found):,} of {path}, mean {mean_s:.3g} s"
    return Lengths(mean_s, told, lambda rng: rng.choice(found))


def _mixture(text: str) -> Lengths:
    parts: list[tuple[float, Lengths]] = []
    for part in text.split("+"):
        share, star, rest = part.rpartition("*")
        parts.append((_number(share, f"the share in {part!r}", 1e9) if star else 1.0, _simple(rest)))
    if len(parts) == 1:
        return parts[0][1]
    total = math.fsum(share for share, _ in parts)
    mean_s = math.fsum(share * each.mean_s for share, each in parts) / total
    told = "; ".join(f"{share / total:.0%} {each.told}" for share, each in parts)
    bounds = list(accumulate(share for share, _ in parts))

    def draw(rng: random.Random) -> float:
        return parts[min(bisect_left(bounds, rng.random() * bounds[-1]), len(parts) - 1)][1].draw(rng)

    return Lengths(mean_s, f"{told}; mean of all {mean_s:.3g} s", draw)


def _simple(text: str) -> Lengths:
    name, *words = text.split(":")
    if name not in KINDS or len(words) != len(KINDS[name]):
        raise ValueError(f"{text!r} describes no lengths. A description is {described()}")
    numbers = [
        _number(word, f"{of} of {text!r}", _MOST_SIGMA if of == "SIGMA" else _LONGEST_S)
        for word, of in zip(words, KINDS[name], strict=True)
    ]
    if name == "lognormal":
        return lognormal(*numbers)
    if name == "uniform":
        low, high = numbers
        if high < low:
            raise ValueError(f"{text!r}: TO is less than FROM")
        return Lengths(
            (low + high) / 2, f"{low:g} to {high:g} s, mean {(low + high) / 2:g} s", lambda rng: rng.uniform(low, high)
        )
    (mean_s,) = numbers
    if name == "exponential":
        return Lengths(mean_s, f"exponential, mean {mean_s:g} s", lambda rng: rng.expovariate(1 / mean_s))
    return Lengths(mean_s, f"always {mean_s:g} s", lambda _: mean_s)


def _number(word: str, of: str, most: float) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 < number <= most:
        raise ValueError(f"{of} is {word!r}, and must be a number above 0, at most {most:g}")
    return number
