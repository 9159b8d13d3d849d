"""The names of rollouts and attempts in URLs, and the attempts of the broker that they mean.

Controllers of agent-lightning 1.x write `0` for every attempt. So the first attempt of a rollout is `0` of its own id.
Every later attempt is shown to controllers as a rollout with an id of its own, `<rollout>--<claims>-<random>`. All that
a controller and its agent send then names the attempt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from broker.protocol.ids import AttemptId, attempt_id

#: How many attempts' names are remembered: a rollout has several requests, and each names its attempt several times.
_NAMES = 4096
#: The name of the first attempt.
FIRST = "0"

#: Names that can be in a path and are those of tasks.
_ROLLOUT = re.compile(r"[A-Za-z0-9._:@+-]{1,200}")
_SHOWN = re.compile(r"(.+)--(\d{1,15})-([A-Za-z0-9]{1,64})")
_ATTEMPT = re.compile(r"(\d{1,15})-([A-Za-z0-9]{1,64})")


@dataclass(frozen=True, slots=True)
class Name:
    """What a URL names.

    Args:
        rollout: the task.
        attempt: the name of an attempt, as `attempt_name` makes it; None: the URL names none.
    """

    rollout: str
    attempt: str | None


def may_be_created(rollout: str) -> bool:
    """Whether a rollout may have this id: one that ends like an attempt's would be taken for that."""
    return _ROLLOUT.fullmatch(rollout) is not None and _SHOWN.fullmatch(rollout) is None


def parsed(shown: str, attempt: str | None = None) -> Name | None:
    """What a URL means.

    Args:
        shown: the id of a rollout in it.
        attempt: the name of an attempt in it, or None.

    Returns:
        None: no attempt has that name.
    """
    match = _SHOWN.fullmatch(shown)
    if match is not None:
        own = _canonical(match[2], match[3])
        return Name(match[1], own) if attempt in {None, FIRST, own} else None
    if attempt is None or attempt == FIRST:
        return Name(shown, attempt)
    match = _ATTEMPT.fullmatch(attempt)
    return None if match is None else Name(shown, _canonical(match[1], match[2]))


@lru_cache(_NAMES)
def attempt_name(attempt: str) -> str:
    """The name of one of the broker's attempts."""
    of = attempt_id(attempt)
    return _canonical(str(of.claims), of.random)


@lru_cache(_NAMES)
def shown(attempt: str) -> str:
    """The id of a rollout under which controllers get an attempt."""
    of = attempt_id(attempt)
    return of.task if of.claims == 1 else f"{of.task}--{of.claims}-{of.random}"


@lru_cache(_NAMES)
def full_name(attempt: str) -> str:
    """The name of an attempt with its random part, also of the first one."""
    of: AttemptId = attempt_id(attempt)
    return f"{of.claims}-{of.random}"


def _canonical(claims: str, random: str) -> str:
    return FIRST if int(claims) == 1 else f"{int(claims)}-{random}"
