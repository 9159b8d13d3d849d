"""The server's data beside the model's state: the lower bound of the timers, markers, bytes without a reader."""

from __future__ import annotations

from dataclasses import dataclass

from .ghost import capacity, held, require
from .model import Model
from .view import View, unwanted_results


@dataclass(frozen=True, slots=True)
class Waits:
    """What a trainer waits for after a take that did not fill its batch.

    Args:
        ready: it waits for this many more ready rollouts; 0: it does not wait.
        left: it also goes on when fewer tasks than this are left in the whole run; 0: fewer are left already.
    """

    ready: int = 0
    left: int = 0


def look_aside(aside: View, view: View, model: Model, waits: Waits) -> None:
    """Raises Violation if no call would look at a timer that is due, if a wake-up is missing, or if bytes leak.

    Args:
        waits: what the trainer waits for.
    """
    clock, _, lease_clock = aside["clocks"]
    timers = [at for kind in ("delayed", "retries") for at in view[kind].values()]
    timers += [at + clock - lease_clock for kind in ("deadlines", "sessions") for at in view[kind].values()]
    if timers:
        due = aside["due"]
        require(0 < due <= min(timers), f"G9: a timer at {min(timers)} is not looked at: due is {due}")
    leases = {session: lease for session, (_, lease) in view["calls"].items()}
    require(aside["leases"] == leases, f"leases {aside['leases']}, not {leases}")
    shortest = min(leases.values(), default=0)
    require(aside["shortest_lease"] == shortest, f"the shortest lease is {shortest}, not {aside['shortest_lease']}")
    if view["run"]["finished"]:
        require(aside["wake"], "G9: the run is finished, and no waiting worker is woken to be told")
    if claimable(view):
        require(aside["wake"], "G9: a claim would get something, and no waiting worker is woken")
    left = sum(len(view[kind]) for kind in ("pending", "delayed", "running", "ready")) + (view["run"]["open_size"] or 0)
    left += len(view["awaited"])
    run_dry = left < waits.left and view["run"]["supply"] != "more"
    run_dry = run_dry or view["run"]["finished"]
    run = model.run
    assert run is not None
    bound = None if run.recovering is not None else run.bound()
    fit = sum(bound is None or (task.oldest or 0) <= bound for task in run.ready())
    if waits.ready and run.recovering is None and (fit >= waits.ready or run_dry):
        require(aside["wake:ready"], f"G9: {waits}, {fit} are ready, {left} left: it is not woken")
    require(
        aside["revoked"] == run.revoked,
        f"the heartbeats of {aside['revoked']} are woken, those that lost an attempt are of {run.revoked}",
    )
    _check_stray(aside, view, model)


def claimable(view: View) -> bool:
    """Whether a claim by the run's policy would get work, although no timer is due."""
    config, run = view["config"], view["run"]
    age = run["step_next"] - run["version"]
    old = config["limit"] is not None and config["on_stale"] != "keep" and age > config["limit"]
    if run["finished"] or view["halted"] or run["paused"] == "paused" or old or run["recovering"] is not None:
        return False
    if config["samples"] is not None and held(view) >= config["samples"]:
        return False
    if any("O" in (slot[0] for slot in view["tasks"][name]["slots"]) for name in view["open"]):
        return True
    return run["paused"] != "draining" and bool(view["pending"]) and capacity(view) > 0


def _check_stray(aside: View, view: View, model: Model) -> None:
    """Checks that other bytes than those of samples to train on are of lost submits, or of batches that trim frees."""
    run = model.run
    assert run is not None
    old = unwanted_results(run)
    for attempt in old:
        if attempt in run.results:
            require(attempt in aside["stray"], f"the bytes of {attempt} are gone, and not by trim")
    for attempt, (_, ttl) in aside["stray"].items():
        if attempt in old:
            require(attempt in run.results, f"the bytes of {attempt} came back")
        elif ttl == -1:
            require(run.recovering is not None, f"the bytes of {attempt} are kept for ever and belong to nobody")
        else:
            require(attempt in run.results, f"the refused submit of {attempt} left its bytes")
