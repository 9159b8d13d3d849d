"""Script calls of an admission run, which counts processes that start rollouts by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.protocol import keys
from broker.protocol.parsing import words
from broker.protocol.script_call import Argument, Now, ScriptCall


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of an owner under its earlier id."""

    accepted: int = 0
    rejected: int = 0
    recovery: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """The run, as the new owner finds it."""

    version: int
    accepted: int
    created: bool


def _opened(reply: Any) -> Opened:
    version, accepted, created = map(int, words(reply))
    return Opened(version, accepted, bool(created))


def open_owner(
    run: str,
    owner: str,
    lease_ms: int,
    token: str,
    config: Mapping[str, str],
    before: Counted,
    *,
    share: int | None = None,
    version: int = -1,
    lost_version: int = -1,
    update: bool = False,
    now: Now = "",
) -> ScriptCall[Opened]:
    """Makes a process an owner of the run; creates the run if it does not exist.

    Args:
        run: name of the run.
        owner: its id, never used before; a repeated call with it does nothing.
        lease_ms: time without a report after which the owner counts as dead, in milliseconds.
        token: of the run's first epoch, if the run is created.
        config: fields of the run's config.
        before: the owner's counts under an earlier id.
        share: rollouts of each batch that the owner trains, 0 for none of its own; None: an equal part of what is left.
        version: its provider's; -1: unknown.
        lost_version: the version at which the server lost the run; -1: it did not.
        update: change a stored config that differs.
        now: as `Now`.
    """
    pairs = [part for item in config.items() for part in item]
    args: list[Argument] = [
        *(now, owner, lease_ms, token, lost_version, int(update)),
        *(before.accepted, before.rejected, before.recovery, -1 if share is None else share, version),
        *pairs,
    ]
    return ScriptCall("admission_open", (keys.state(run),), tuple(args), _opened)


@dataclass(frozen=True, slots=True)
class Recovery:
    """An announcement that training goes on from a version.

    Args:
        number: counts the owner's announcements, from 1; 0: none was made.
        version: the version.
        accepted_then: the owner's accepted rollouts when it made the announcement.
    """

    number: int = 0
    version: int = 0
    accepted_then: int = 0


@dataclass(frozen=True, slots=True)
class OwnerReport:
    """An owner's report: absolute numbers, so that the newest report includes all that were lost.

    Args:
        number: counts its reports, from 1.
        running: rollouts that it has started and not ended.
        enqueued: rollouts that wait in it.
        accepted: rollouts accepted since it joined.
        rejected: rollouts rejected since it joined.
        held: slots promised to it that it may still use.
        asks: whether it wants one more slot.
        version: its provider's version; -1: unknown.
        recovery: its newest announcement.
    """

    number: int
    running: int
    enqueued: int
    accepted: int
    rejected: int
    held: int
    asks: bool
    version: int
    recovery: Recovery


@dataclass(frozen=True, slots=True)
class Standing:
    """The run after a report.

    Args:
        granted: one more slot is promised to the owner.
        capacity: by AReaL's formula, may be negative; at most 0 while the run is paused or recovered.
        spare: slots that the owner may take: promised to nobody, and needed by no other owner for the step at hand.
        accepted, running, enqueued, rejected: of all owners together.
        version: the newest that any owner reported in this history.
        share: how many rollouts of each batch are kept for this owner.
        owners: how many live.
    """

    granted: bool
    capacity: int
    spare: int
    accepted: int
    running: int
    enqueued: int
    rejected: int
    version: int
    share: int = 0
    owners: int = 1


def _standing(reply: Any) -> Standing:
    granted, *numbers = map(int, reply)
    return Standing(bool(granted), *numbers)


def _args(owner: str, lease_ms: int, report: OwnerReport, now: Now) -> tuple[Argument, ...]:
    to = report.recovery
    return (
        *(now, owner, lease_ms, report.number, report.running, report.enqueued),
        *(report.accepted, report.rejected, report.held, int(report.asks)),
        *(report.version, to.number, to.version, to.accepted_then),
    )


def report(run: str, owner: str, lease_ms: int, report: OwnerReport, *, now: Now = "") -> ScriptCall[Standing]:
    """Sends an owner's report, renews its lease, and asks for a slot if the report does."""
    return ScriptCall("admission_report", (keys.state(run),), _args(owner, lease_ms, report, now), _standing)


def leave(run: str, owner: str, lease_ms: int, report: OwnerReport, *, now: Now = "") -> ScriptCall[bool]:
    """Ends an owner; its running and enqueued rollouts are subtracted. False: it had ended."""
    return ScriptCall("admission_leave", (keys.state(run),), _args(owner, lease_ms, report, now), bool)
