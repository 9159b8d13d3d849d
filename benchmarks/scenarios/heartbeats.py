"""10,000 sessions that hold 100,000 attempts: what renewing their leases takes of one core.

10,000 clients would measure this machine rather than the server, so the calls are sent through one connection, as the
clients' heartbeats would send them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.commandstats import spent
from benchmarks.lab import Lab
from benchmarks.probes import felt, slowest_script
from broker.connections import Transport, open_transport
from broker.heartbeat import RENEWALS_PER_LEASE
from broker.operation import Operation
from broker.operations import worker

ATTEMPTS_PER_SESSION = 10
#: Calls of one round trip: few, since others wait for all of them.
PIPELINED = 5


def cases(lab: Lab) -> list[Case]:
    """Ours; no peer has leases by session."""
    sessions = lab.size(10_000, 500)
    return [Case("heartbeats", f"{sessions:,} sessions", "ours", partial(_ours, lab, sessions), repeat=2)]


def _each(transport: Transport, operations: list[Operation[Any]]) -> list[Any]:
    answers: list[Any] = []
    for at in range(0, len(operations), PIPELINED):
        answers += transport.execute(operations[at : at + PIPELINED])
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _ours(lab: Lab, sessions: int) -> dict[str, float]:
    run = lab.run_name()
    attempts = sessions * ATTEMPTS_PER_SESSION
    with ours.filled(lab.url, run, attempts) as trainer, open_transport(lab.url) as transport:
        joined = _each(transport, [worker.join(run, f"w{i}", f"n{i}") for i in range(sessions)])
        claims = [worker.claim(run, each.session, 1, ATTEMPTS_PER_SESSION, "r1") for each in joined]
        claimed = _each(transport, claims)
        renewals = [
            worker.renew(run, each.session, 1, [granted.attempt_id for granted in answer.granted])
            for each, answer in zip(joined, claimed, strict=True)
        ]
        assert trainer.stats().running == attempts
        cpu = lab.server_cpu_s()
        with spent(lab.control) as used, slowest_script(lab.control) as slow, felt(lab.url) as others:
            _each(transport, renewals)
        cpu = lab.server_cpu_s() - cpu
        lease_s = trainer.config.lease_ms / 1000
    per_s = sessions * RENEWALS_PER_LEASE / lease_s
    return {
        "renew_us": used.scripts / sessions,
        "core_share_x": used.scripts / sessions * 1e-6 * per_s,
        "core_share_cpu_x": cpu / sessions * per_s,
        **slow,
        **others,
    }
