"""10,000 sessions that hold 100,000 attempts: the share of one core that renewing their leases takes.

10,000 clients would load this machine more than the server. So one connection sends the calls that the clients'
heartbeats would send. Between two renewals each heartbeat waits for the marker of its session. That is measured with a
connection for each session, since the connections are its cost. One process has all of them.
"""

from __future__ import annotations

import resource
import select
import socket
import time
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.commandstats import spent
from benchmarks.lab import Lab
from benchmarks.probes import felt, slowest_script
from benchmarks.quantiles import quantile
from benchmarks.resp import RawClient, info
from broker.connections import Transport, open_transport
from broker.connections.connection import packed
from broker.operator import Operator
from broker.protocol import keys, worker
from broker.protocol.script_call import ScriptCall
from broker.worker.heartbeat import RENEWALS_PER_LEASE

ATTEMPTS_PER_SESSION = 10
#: Calls of one round trip: few, since other clients wait until the server has executed all of them.
PIPELINED = 5
#: Files of this process that are not connections of waiting sessions, with a margin.
OTHER_FILES = 300
#: How many attempts are cancelled, one after the other, to measure how soon their sessions are told.
CANCELLED = 100


def cases(lab: Lab) -> list[Case]:
    """Ours; no peer has leases by session."""
    sessions = lab.size(10_000, 500)
    return [Case("heartbeats", f"{sessions:,} sessions", "ours", partial(_ours, lab, sessions), repeat=2)]


def _each(transport: Transport, calls: list[ScriptCall[Any]]) -> list[Any]:
    answers: list[Any] = []
    for at in range(0, len(calls), PIPELINED):
        answers += transport.execute(calls[at : at + PIPELINED])
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
    waiting = _waiting(lab, sessions, lease_s / RENEWALS_PER_LEASE)
    return {
        "renew_us": used.scripts / sessions,
        "core_share_x": used.scripts / sessions * 1e-6 * per_s,
        "core_share_cpu_x": cpu / sessions * per_s,
        "with_waits_cpu_x": cpu / sessions * per_s + waiting["waits_cpu_x"],
        **waiting,
        **slow,
        **others,
    }


def _waiting(lab: Lab, sessions: int, interval_s: float) -> dict[str, float]:
    """Sessions that each wait for their marker on a connection, and how soon a session is told of a cancel.

    If this process may not open enough files, fewer sessions wait, and the server's time is scaled to all sessions.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    there = min(sessions, most - OTHER_FILES)
    with lab.another_server(maxclients=str(there + OTHER_FILES // 2)) as url:
        run = lab.run_name()
        with ours.filled(url, run, CANCELLED), open_transport(url) as transport, Operator(url) as operator:
            joined = _each(transport, [worker.join(run, f"w{i}", f"n{i}") for i in range(there)])
            claims = [worker.claim(run, each.session, 1, 1, "r1") for each in joined[:CANCELLED]]
            claimed = _each(transport, claims)
            with Crowd(url, [keys.key(run, f"revoked:{each.session}") for each in joined]) as crowd:
                seconds = 0.5 if lab.quick else interval_s
                silent = crowd.server_share(seconds / 4)
                crowd.wait_each(interval_s)
                waits = crowd.server_share(seconds)
                told: list[float] = []
                for at, answer in enumerate(claimed):
                    began = time.perf_counter()
                    operator.cancel(run, [answer.granted[0].task])
                    crowd.await_marker(at)
                    told.append((time.perf_counter() - began) * 1000)
    return {
        "connected_cpu_x": silent * sessions / there,
        "waits_cpu_x": waits * sessions / there,
        "told_p50_ms": quantile(told, 0.5),
        "told_max_ms": max(told),
    }


class Crowd:
    """Connections that each wait for a marker, again and again.

    Args:
        url: the server.
        markers: one for each connection.
    """

    def __init__(self, url: str, markers: list[str]) -> None:
        place = urlsplit(url)
        assert place.hostname, url
        assert place.port, url
        self._control = RawClient(url)
        self._interval_s = 0.0
        self._markers = markers
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._number: dict[int, int] = {}
        for at in range(len(markers)):
            made = socket.create_connection((place.hostname, place.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(made)
            self._number[made.fileno()] = at
            self._poll.register(made.fileno(), select.EPOLLIN)

    def wait_each(self, interval_s: float) -> None:
        """Lets all connections wait. Their first waits end evenly within one interval, as those of workers do."""
        self._interval_s = interval_s
        for at in range(len(self._markers)):
            self._wait(at, interval_s * (at + 1) / len(self._markers))

    def _wait(self, at: int, seconds: float) -> None:
        wait = ("BZPOPMIN", self._markers[at], f"{max(0.001, seconds):.3f}")
        self._sockets[at].sendall(b"".join(packed([wait])))

    def _go_on(self) -> list[int]:
        """Returns the connections that had an answer; each of them waits again."""
        answered = [self._number[file] for file, _ in self._poll.poll(0.01)]
        for at in answered:
            self._sockets[at].recv(4096)
            self._wait(at, self._interval_s)
        return answered

    def server_share(self, seconds: float) -> float:
        """Goes on for this many seconds. Returns the part of a core that the server took."""
        before, began = self._cpu_s(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            self._go_on()
        return (self._cpu_s() - before) / (time.perf_counter() - began)

    def await_marker(self, at: int) -> None:
        """Goes on until connection `at` had an answer."""
        while at not in self._go_on():
            pass

    def _cpu_s(self) -> float:
        cpu = info(self._control, "cpu")
        return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()
        for each in self._sockets:
            each.close()
        self._control.close()
