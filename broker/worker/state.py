"""The state of a worker of one or several runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from broker.connections.base import BaseTransport
from broker.errors import BadArgument
from broker.values.arguments import check_type, one_or_several, seconds_of, shown
from broker.values.attempt import Attempt
from broker.values.hooks import check_hook, check_plain_hook, takes
from broker.values.names import check_name
from broker.values.policy import Policy
from broker.worker.activity import Activity
from broker.worker.lanes import Lanes
from broker.worker.missing_run import MissingRun
from broker.worker.session import Session, check_policy

if TYPE_CHECKING:
    from broker.worker.loaded_weights import LoadedWeights

#: The weights that a worker has loaded: for its one run, or by the run's name; None: always the current ones.
Policies = Policy | Mapping[str, Policy | None] | None
#: Called with a run's policy and newest blob, and with `run=` where it has a parameter of that name.
StaleWeights = Callable[..., Any]
#: Called with a version and the path of its weights, and with `run=` where it has a parameter of that name.
LoadWeights = Callable[..., Any]


def default_name() -> str:
    """`<host>-<pid>`, in the characters that a name may have."""
    host = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())
    return f"{host[:100] or 'host'}-{os.getpid()}"


class WorkerState:
    """State of one worker.

    Args:
        io: sends its calls.
        runs: name of the run, or names of the runs that it serves, the preferred one first.
        name: the worker's name, None: host and process.
        lease_s: lease asked for, in seconds; None: each run's own.
        policy: the weights it has loaded, for several runs by their names; None: always the run's current ones.
        on_weights_stale: the user's hook, or None.
        load_weights: the user's hook that loads published weights, or None.
        weights_cache: where this host keeps them, or None.
        clock: injected time in milliseconds, or None.
        wait_for_run_s: how long to wait for a run that is not there, seconds; None: not when the worker is opened,
            but for ever for a run that vanished later.
    """

    def __init__(
        self,
        io: BaseTransport,
        runs: str | Sequence[str],
        *,
        name: str | None = None,
        lease_s: float | None = None,
        policy: Policies = None,
        on_weights_stale: StaleWeights | None = None,
        load_weights: LoadWeights | None = None,
        weights_cache: str | os.PathLike[str] | None = None,
        clock: Callable[[], int] | None = None,
        wait_for_run_s: float | None = None,
    ) -> None:
        self.name = check_name("worker", default_name() if name is None else name)
        lease_s = seconds_of("lease_s", lease_s)
        if lease_s is not None and not 0.001 <= lease_s <= 86_400:
            raise BadArgument(
                argument="lease_s", given=lease_s, expected="0.001 to 86400 seconds, or None for the run's"
            )
        lease_ms = 0 if lease_s is None else int(lease_s * 1000)
        names = [check_name("run", run) for run in one_or_several("run", runs, str, "the name of a run, or several")]
        if not names or len(set(names)) != len(names):
            raise BadArgument(
                argument="run", given=", ".join(names) or "none", expected="one run, or several different ones"
            )
        check_plain_hook("clock", clock)
        check_hook("on_weights_stale", on_weights_stale)
        check_hook("load_weights", load_weights)
        if load_weights is not None and (policy is not None or on_weights_stale is not None):
            raise BadArgument(problem="load_weights was given with policy or on_weights_stale: give one of them")
        if weights_cache is not None:
            check_type("weights_cache", weights_cache, (str, os.PathLike), "a path, or None")
        self.waits_for_run = wait_for_run_s is not None
        patience_s = seconds_of("wait_for_run_s", wait_for_run_s)
        if patience_s is not None and patience_s < 0:
            raise BadArgument(argument="wait_for_run_s", given=patience_s, expected="at least 0 seconds, or None")
        self.activity = Activity(self.name)
        self.sessions = {
            run: Session(
                io,
                run,
                worker_name=self.name,
                lease_ms=lease_ms,
                clock=clock,
                missing=MissingRun(self.name, patience_s),
                activity=self.activity,
            )
            for run in names
        }
        self.lanes = Lanes(self.name, self.sessions.values())
        self.weights: LoadedWeights | None = None
        self.policy = policy
        self.on_weights_stale = on_weights_stale
        self.hook_takes_run = on_weights_stale is not None and takes(on_weights_stale, "run")
        if load_weights is not None:
            # Imported here: most workers load no published weights, and need no HTTP client.
            from broker.worker.loaded_weights import LoadedWeights

            self.weights = LoadedWeights(io, load_weights, weights_cache, self.sessions.values(), lambda: self.stopping)
        self.draining = False
        self.stopping = False

    @property
    def ended(self) -> bool:
        """Whether nothing is claimed any more."""
        return self.draining or self.stopping

    @property
    def is_over(self) -> bool:
        """Whether a loop ends once its attempts have: the worker drains, or all its runs are finished."""
        return self.draining or self.lanes.are_finished

    @property
    def reason(self) -> str:
        """Why the last claim gave less than asked; of several runs, the preferred one's."""
        return next((s.reason for s in self.sessions.values() if s.reason), "")

    @property
    def policy(self) -> Policies:
        """The weights that it has loaded; of several runs a mapping that cannot be changed, or None if it has none."""
        policies = {run: session.policy for run, session in self.sessions.items()}
        first = next(iter(policies.values()))
        if len(policies) == 1 or all(policy is None for policy in policies.values()):
            return first
        return MappingProxyType(policies)

    @policy.setter
    def policy(self, given: Policies) -> None:
        if not isinstance(given, Mapping):
            if given is not None and len(self.sessions) > 1:
                raise BadArgument(
                    argument="policy",
                    given=f"{shown(given)} for {len(self.sessions)} runs",
                    expected="a mapping, run -> Policy or None: each run has versions and epochs of its own",
                )
            given = dict.fromkeys(self.sessions, given)
        if unknown := [run for run in given if run not in self.sessions]:
            raise BadArgument(
                argument="policy",
                given=f"for {shown(unknown[0])}",
                expected=f"for runs of this worker ({', '.join(self.sessions)})",
            )
        for policy in given.values():
            check_policy("policy", policy)
        if self.weights is not None and any(policy is not None for policy in given.values()):
            # Attempts would be claimed for that policy, and generated with the weights that the hook has loaded.
            raise BadArgument(problem="the policy of a worker with load_weights is that of the weights that it loaded")
        for run, session in self.sessions.items():
            session.policy = given.get(run)

    @property
    def held(self) -> list[Attempt]:
        """What the worker works on, in all runs."""
        return [attempt for session in self.sessions.values() for attempt in session.held]

    @property
    def holds(self) -> bool:
        """Whether the worker works on anything. A signal handler may ask."""
        return any(session.holds for session in self.sessions.values())
