"""AReaL's own dispatcher in three processes on one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from broker.connections import Transport, open_transport
from broker.local_server.embedded import EmbeddedServer
from broker.operator import Operator
from tests.child import Child
from tests.integrations.areal import isolated
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not isolated.installed(), reason="pip install --no-deps areal==1.0.4"),
]

C, B, S = 8, 6, 1
PROCESSES, EACH = 3, 60


@pytest.fixture
def url() -> Generator[str]:
    server = EmbeddedServer()
    yield server.url
    server.stop()


class Runner(Child):
    """One of the processes."""

    def __init__(self, url: str, run: str, name: str) -> None:
        self.name = name
        super().__init__("-m", "tests.integrations.areal.rollouts", url, run, name, str(C), str(B), str(S))

    def submit(self, tasks: list[int]) -> None:
        self.tell(" ".join(map(str, tasks)))


def ended(transport: Transport) -> list[str]:
    return [line.decode() for line in transport.command("LRANGE", "ended", 0, -1)]


def test_the_bound_holds_in_three_processes_of_which_one_is_killed_and_every_rollout_is_accounted_for(url: str) -> None:
    with ExitStack() as stack, open_transport(url) as transport, Operator(url) as operator:
        runners = [stack.enter_context(Runner(url, "areal", f"rank{i}")) for i in range(PROCESSES)]
        for runner in runners:
            runner.expect("ready")
        mine = {runner.name: [EACH * i + k for k in range(EACH)] for i, runner in enumerate(runners)}
        for runner in runners:
            runner.submit(mine[runner.name])
        killed, *survivors = runners
        version, most_ahead = 0, 0

        def train() -> int:
            nonlocal version, most_ahead
            lines = ended(transport)
            accepted = sum(line.endswith("accepted") for line in lines)
            most_ahead = max(most_ahead, accepted - (S + version + 1) * B)
            if accepted >= (version + 1) * B:
                version += 1
                transport.command("SET", "version", version)
            return len(lines)

        wait_until(lambda: train() >= EACH, "a third of the rollouts has ended", 30)
        killed.kill()
        transport.command("HDEL", "now", killed.name)
        lost = set(mine[killed.name]) - {int(line.split()[0]) for line in ended(transport)}
        survivors[0].submit(sorted(lost))
        wait_until(lambda: train() >= PROCESSES * EACH, "all rollouts have ended", 30)
        for runner in survivors:
            last = runner.end()
            assert last.out == "done\n", last.err
            assert "Traceback" not in last.err, last.err

        by_task = Counter(line.split()[0] for line in ended(transport))
        assert by_task == Counter(map(str, range(PROCESSES * EACH)))
        assert C // 2 < max(map(int, transport.command("LRANGE", "seen", 0, -1))) <= C
        assert most_ahead <= 0
        # What its last report told of the killed one counts; of the others everything does.
        records = [owner.split() for owner in transport.command("HVALS", "rb1:{areal}:owners")]
        stats = operator.stats("areal")
        assert stats.accepted == sum(int(record[3]) for record in records)
        assert stats.totals["rejected"] == sum(int(record[4]) for record in records)
        assert PROCESSES * EACH - C <= stats.accepted + stats.totals["rejected"] <= PROCESSES * EACH + C
