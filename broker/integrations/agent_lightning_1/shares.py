"""Who a controller is, and which share of the work it gets."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.integrations.agent_lightning_1.messages import Record, RolloutState
from broker.integrations.agent_lightning_1.storage import Held
from broker.values.names import is_name

#: Begins the name of a controller that is known by its address.
_BY_ADDRESS = "controller@"
#: How long controllers with one address are given to start what was shown to one of them, seconds. After that time it
#: is shown again. A controller starts all that it can within its look at the list.
SETTLED_S = 5.0


@dataclass(frozen=True, slots=True)
class Who:
    """The controller of a request.

    Args:
        name: its name.
        by_address: it is known by its address alone, so that it may be several.
    """

    name: str
    by_address: bool


def who(name: str | None, address: str) -> Who | None:
    """The controller with a name in its URL, or else of an address; None: no controller can have that name."""
    if name is not None:
        return Who(name, by_address=False) if is_name(name) and not name.startswith(_BY_ADDRESS) else None
    kept = "".join(letter if is_name(letter) else "-" for letter in address)
    return Who(f"{_BY_ADDRESS}{kept}"[:200], by_address=True)


@dataclass(slots=True)
class Given:
    """An attempt of a controller, as a gateway knows it. Another gateway may have changed it since.

    Args:
        session: the broker's session that holds it.
        record: its rollout's record.
    """

    session: str
    record: Record


@dataclass(slots=True)
class Controller:
    """What this gateway remembers of a controller.

    Args:
        turn: claims of one session are numbered, and must arrive in that order.
        session: its session through this gateway, or empty.
        number: of the last claim.
        started: attempts that it started since its last list.
        started_at: when it started the last one, seconds since 1970.
        pool: how many attempts it runs at once; None: that is not known yet.
        left: what it had not started at its last list, although a list before had it.
        given: what it has, as this gateway showed it last, by the ids that it was shown under.
        asked_at: when it asked for its last list, by the monotonic clock.
        kept_at: when the time for which the server remembers what it has was prolonged, by the monotonic clock.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    session: str = ""
    number: int = 0
    started: int = 0
    started_at: float = 0.0
    pool: int | None = None
    left: frozenset[str] = frozenset()
    given: dict[str, Given] = field(default_factory=dict[str, "Given"])
    asked_at: float = field(default_factory=time.monotonic)
    kept_at: float = -math.inf


def share(held: dict[str, Held], asking: Who, one: Controller, limit: int) -> tuple[list[str], int]:
    """What a controller gives back, and how many new attempts it gets.

    A controller starts all that it can when it gets its list. So if attempts from its list before are left, its pool is
    full, and as large as what it runs. It keeps as many in hand as it started since, at least one, so that it can go on
    at once where some have ended. The others are for other controllers, when they are left a second time: the first
    time it may have started them, and its word of that was lost.
    """
    room = max(0, limit - len(held))
    running = sum(of.started for of in held.values())
    left = [attempt for attempt, of in held.items() if not of.started and not of.by_k8s and of.shown_at > 0]
    if not left:
        return [], room if one.pool is None else min(room, max(1, 2 * one.started, one.pool - running))
    if asking.by_address and not _settled(held, left, one):
        return [], 0
    again = [attempt for attempt in left if attempt in one.left]
    one.pool, one.left = max(running, one.started), frozenset(left)
    wanted = max(1, one.started) - len(left)
    return (again[wanted:], 0) if wanted < 0 else ([], min(wanted, room))


def _settled(held: dict[str, Held], left: Sequence[str], one: Controller) -> bool:
    since = max(one.started_at, *(held[attempt].shown_at for attempt in left))
    return time.time() - since >= SETTLED_S


def is_seen(of: Held, asking: Who, one: Controller, states: frozenset[RolloutState]) -> bool:
    """Whether a controller sees one of its attempts.

    Several controllers may have one address. What was shown to one of them is shown again only when that one would
    have started it: else two of them would start it.
    """
    if of.started:
        return RolloutState.RUNNING in states
    if RolloutState.QUEUING not in states:
        return False
    if not asking.by_address or of.by_k8s or of.shown_at == 0:
        return True
    return time.time() - max(of.shown_at, one.started_at) >= SETTLED_S
