"""The gateways beside agent-lightning's own servers.

    python -m benchmarks.agent_lightning --python PYTHON [--clients 1 32 200] [--rounds 5] [--seconds 4] [--legacy]

PYTHON is a Python 3.12 that has `agentlightning` 1.x: controllers list, start and end rollouts. With `--legacy` it is a
Python that has `agentlightning` 0.3 or earlier: workers ask for a task and post its rollout, 2 requests a cycle. Both
servers run on this machine, ours with a private Valkey beside it, and get the same requests on connections that are
kept open. A client of 1.x is a controller: it lists at most 8 rollouts, and reports each of them as running and as
succeeded, so 17 requests a cycle. The own server shows all clients the same list, so that there each client takes 8
rollouts of its own. Rounds alternate between the two.
The time of the processors that a request takes, ours with that of Valkey, says more than the rate where the machine has
other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from broker import RunConfig, Task, Trainer
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator

_PER_LIST = 8
_LIST = f"/api/rollouts?state_in=queuing&state_in=running&limit={_PER_LIST}"
_ROLLOUT: dict[str, Any] = {
    "input": {"question": "x" * 500},
    "config": {"local": {"agent_class": "a:B", "env_map": {}}},
}


class Connection:
    """A connection that is kept open.

    Args:
        port: of the server.
        prefix: of all paths.
    """

    def __init__(self, port: int, prefix: str = "") -> None:
        self._port, self._prefix = port, prefix
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """One request. Returns status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + f"content-length: {len(sent)}\r\n\r\n".encode() + sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line)
        return int(answer.split(b" ", 2)[1]), await reader.readexactly(int(fields.get(b"content-length", b"0")))

    def close(self) -> None:
        """Closes it."""
        if self._streams is not None:
            self._streams[1].close()


async def _cycles(port: int, number: int, prefix: str, own: list[str] | None, until: float) -> tuple[int, int]:
    """A client's cycles until a time. Returns how many requests it made, and how many were refused."""
    connection = Connection(port, prefix)
    requests = refused = 0
    try:
        while time.monotonic() < until:
            status, body = await connection.request(
                "GET", f"/api/rollouts?state_in=queuing&state_in=running&limit={_PER_LIST}"
            )
            requests += 1
            refused += status != 200
            shown = [rollout["rollout_id"] for rollout in json.loads(body)]
            if own is not None:
                shown, own = own[:_PER_LIST], own[_PER_LIST:]
            if not shown:
                raise SystemExit(f"client {number} has no rollouts left: prepare more")
            for rollout in shown:
                for state in ("running", "succeeded"):
                    change = {"status": {"state": state, "last_attempt_id": "0"}}
                    status, _ = await connection.request("PATCH", f"/api/rollouts/{rollout}", change)
                    requests += 1
                    refused += status != 200
    finally:
        connection.close()
    return requests, refused


async def _legacy_cycles(port: int, until: float) -> int:
    """A worker's cycles until a time. Returns how many requests it made."""
    connection, requests = Connection(port), 0
    try:
        while time.monotonic() < until:
            task = json.loads((await connection.request("GET", "/task"))[1])["task"]
            if task is None:
                raise SystemExit("no tasks are left: prepare more")
            rollout = {"rollout_id": task["rollout_id"], "final_reward": 1.0}
            status, _ = await connection.request("POST", "/rollout", rollout)
            assert status == 200, status
            requests += 2
    finally:
        connection.close()
    return requests


async def _legacy_measured(port: int, clients: int, seconds: float, pids: Sequence[int]) -> tuple[float, float]:
    """As `_measured`, of a server that has its tasks already, or gets them now."""
    waiting = Connection(port)
    while json.loads((await waiting.request("GET", "/task"))[1])["task"] is None:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)
    waiting.close()
    await asyncio.sleep(2)
    begun, cpu_s = time.monotonic(), _cpu_s(pids)
    requests = sum(await asyncio.gather(*(_legacy_cycles(port, begun + seconds) for _ in range(clients))))
    took, cpu_s = time.monotonic() - begun, _cpu_s(pids) - cpu_s
    return requests / took, cpu_s / requests * 1000


def _cpu_s(pids: Sequence[int]) -> float:
    """The time of the processors that processes took, seconds."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


async def _measured(
    port: int, clients: int, seconds: float, pids: Sequence[int], *, named: bool, prepared: int
) -> tuple[float, float]:
    """Requests a second, and milliseconds of the processors for each."""
    setup = Connection(port)
    ids = [f"{time.monotonic_ns():x}x{i}" for i in range(prepared)]
    for at in range(0, prepared, 500):
        status, _ = await setup.request(
            "POST", "/api/rollouts", [{**_ROLLOUT, "rollout_id": i} for i in ids[at : at + 500]]
        )
        assert status == 201, status
    setup.close()
    share = prepared // clients
    begun, cpu_s = time.monotonic(), _cpu_s(pids)
    totals = await asyncio.gather(
        *(
            _cycles(
                *(port, i, f"/controller/c{i}" if named else ""),
                *(None if named else ids[i * share : (i + 1) * share], begun + seconds),
            )
            for i in range(clients)
        )
    )
    took, cpu_s = time.monotonic() - begun, _cpu_s(pids) - cpu_s
    assert not sum(refused for _, refused in totals), totals
    setup = Connection(port)
    for one in ids:
        await setup.request("DELETE", f"/api/rollouts/{one}")
    setup.close()
    requests = sum(requests for requests, _ in totals)
    return requests / took, cpu_s / requests * 1000


#: The own server of agent-lightning 0.3 with its tasks.
_LEGACY_SERVER = """
import asyncio, sys
from agentlightning.server import AgentLightningServer

async def serve(port, tasks):
    server = AgentLightningServer(host="127.0.0.1", port=port, task_timeout_seconds=300.0)
    await server.start()
    for _ in range(tasks):
        await server.queue_task({"question": "x" * 500}, mode="train")
    await asyncio.Event().wait()

asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
"""


def _legacy_round(name: str, python: str, server: EmbeddedServer, clients: int, seconds: float) -> tuple[float, float]:
    """One round, of one of the two, which begins with tasks that nobody had yet."""
    port, tasks = _free_port(), int(4_000 * seconds)
    if name == "own server":
        with _running([python, "-c", _LEGACY_SERVER, str(port), str(tasks)], port) as pid:
            return asyncio.run(_legacy_measured(port, clients, seconds, [pid]))
    run = f"bench-{port}-{time.monotonic_ns()}"
    config = RunConfig(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=1_000_000_000)
    with Trainer(server.url, run, config) as trainer, Operator(server.url) as operator:
        trainer.enqueue(Task(id=f"t{i}", payload={"question": "x" * 500}) for i in range(tasks))
        command = [sys.executable, "-m", "broker", "gateway", run, "--protocol", "agent-lightning"]
        with _running([*command, "--port", str(port), "--url", server.url], port) as pid:
            found = asyncio.run(_legacy_measured(port, clients, seconds, [pid, server.pid or pid]))
        operator.purge(run)
    return found


@contextmanager
def _running(command: list[str], port: int) -> Generator[int]:
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else the own server of 0.3 asks the internet
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(1_800):
            if process.poll() is not None:
                raise SystemExit(f"{command[:3]} ended with {process.returncode}")
            try:
                with urlopen(f"http://127.0.0.1:{port}/healthz"):
                    break
            except HTTPError:  # it is there, and has no such path
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _line(clients: int, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> str:
    def median(of: list[tuple[float, float]], which: int) -> float:
        return statistics.median(each[which] for each in of)

    faster = statistics.median(mine[0] / other[0] for mine, other in zip(ours, theirs, strict=True))
    cheaper = statistics.median(other[1] / mine[1] for mine, other in zip(ours, theirs, strict=True))
    return (
        f"{clients:4} clients: gateway {median(ours, 0):6,.0f} requests/s, {median(ours, 1):.2f} ms each; own server"
        f" {median(theirs, 0):6,.0f}, {median(theirs, 1):.2f} ms: {faster:.2f}x the rate,"
        f" {cheaper:.2f}x by processor time"
    )


#: Requests a second, and milliseconds of the processors for each, of each round of each server.
Rates = dict[str, list[tuple[float, float]]]


def _legacy(given: argparse.Namespace, server: EmbeddedServer) -> Generator[tuple[int, Rates]]:
    for clients in given.clients:
        rates: Rates = {"own server": [], "gateway": []}
        for _ in range(given.rounds):
            for name, found in rates.items():
                found.append(_legacy_round(name, given.python, server, clients, given.seconds))
        yield clients, rates


def _of_1(given: argparse.Namespace, server: EmbeddedServer) -> Generator[tuple[int, Rates]]:
    theirs, ours = _free_port(), _free_port()
    own = [given.python, "-m", "agentlightning.server", "host=127.0.0.1", f"port={theirs}"]
    own += ["hydra.run.dir=/tmp", "hydra.output_subdir=null"]
    gateway = [sys.executable, "-m", "broker", "gateway", "bench", "--protocol", "agent-lightning-1"]
    gateway += ["--port", str(ours), "--url", server.url]
    with _running(own, theirs) as their_pid, _running(gateway, ours) as our_pid:
        servers = {"own server": (theirs, [their_pid]), "gateway": (ours, [our_pid, server.pid or our_pid])}
        for clients in given.clients:
            prepared = max(int(3_000 * given.seconds), clients * _PER_LIST * 8)
            rates: Rates = {name: [] for name in servers}
            for _ in range(given.rounds):
                for name, (port, pids) in servers.items():
                    named = name == "gateway"
                    measured = _measured(port, clients, given.seconds, pids, named=named, prepared=prepared)
                    rates[name].append(asyncio.run(measured))
            yield clients, rates


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a Python with agentlightning")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 200])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--legacy", action="store_true", help="agent-lightning 0.3 and earlier")
    given = parser.parse_args()
    server, table = EmbeddedServer(port=0), list[dict[str, Any]]()
    try:
        for clients, rates in _legacy(given, server) if given.legacy else _of_1(given, server):
            table.append({"clients": clients, **rates})
            print(_line(clients, rates["gateway"], rates["own server"]))  # noqa: T201
    finally:
        server.stop()
    print(json.dumps(table))  # noqa: T201


if __name__ == "__main__":
    main()
