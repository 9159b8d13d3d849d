"""A user who may not call every command that the scripts call is refused before anything is written."""

import asyncio
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker, aio
from broker.clients.operator import Operator
from broker.errors import AuthenticationFailed, BrokerError, UnsupportedServer
from broker.protocol import rights
from tests.servers import ServerUnderTest, real_kinds

#: Servers that a script can ask about rights.
KINDS = [kind for kind in real_kinds() if kind.supports_shebang]
CONFIG = RunConfig(consumer_batch_size=1, max_concurrent_rollouts=9, max_staleness=9, lease_ms=60_000)
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
OF_WORKERS, OF_TRAINERS = (sorted(rights.needed(rights.ENTRIES[first])) for first in ("join", "open"))


@pytest.fixture(params=KINDS, ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


@pytest.fixture(params=["functions", "scripts"])
def without(server: ServerUnderTest, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Takes rights from the user, who has all others. Returns the user's URL."""
    may_not = [] if request.param == "functions" else ["-fcall", "-function"]

    def taken(*commands: str) -> str:
        denied = [f"-{command.lower()}" for command in commands]
        server.command("ACL", "SETUSER", "u", "reset", "on", ">pw", "~*", "&*", "+@all", *may_not, *denied)
        return server.url.replace("redis://", "redis://u:pw@")

    return taken


def stored(server: ServerUnderTest) -> dict[bytes, bytes]:
    """All that the server has, without time stamps."""
    return {name: server.command("DUMP", name) for name in server.command("KEYS", "*")}


def opened(flavour: str, url: str, run: str = "r") -> None:
    """Opens a trainer and closes it."""
    if flavour == "sync":
        Trainer(url, run, CONFIG).close()
    else:
        asyncio.run(_enter(lambda: aio.Trainer(url, run, CONFIG)))


def joined(flavour: str, url: str, run: str = "r") -> None:
    """Opens a worker and closes it."""
    if flavour == "sync":
        Worker(url, run).close()
    else:
        asyncio.run(_enter(lambda: aio.Worker(url, run)))


async def _enter(client: Callable[[], Any]) -> None:
    async with client():
        pass


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_trainer_without_a_right_is_refused_before_the_run_exists(
    server: ServerUnderTest, without: Callable[..., str], flavour: str
):
    for command in OF_TRAINERS:
        with pytest.raises(AuthenticationFailed, match=f"'{command.lower()}'") as caught:
            opened(flavour, without(command))
        assert caught.value.lacks_rights
        assert stored(server) == {}, command
    opened(flavour, without())


@pytest.mark.parametrize("flavour", ["sync", "aio"])
def test_a_worker_without_a_right_is_refused_before_it_has_a_session(
    server: ServerUnderTest, without: Callable[..., str], flavour: str
):
    with Trainer(server.url, "r", CONFIG) as trainer:
        trainer.enqueue([Task(id="t")])
    before = stored(server)
    for command in OF_WORKERS:
        with pytest.raises(AuthenticationFailed, match=f"'{command.lower()}'"):
            joined(flavour, without(command))
        assert stored(server) == before, command
    joined(flavour, without())


def test_all_missing_rights_are_named_at_once(without: Callable[..., str]):
    with pytest.raises(AuthenticationFailed, match="'zadd', 'zrem' commands"):
        opened("sync", without("ZADD", "ZREM"))


def test_each_change_of_an_operator_is_refused_before_it_writes(server: ServerUnderTest, without: Callable[..., str]):
    with Trainer(server.url, "r", CONFIG) as trainer, Worker(server.url, "r", heartbeat=False) as worker:
        trainer.enqueue(Task(id=f"t{i}") for i in range(3))
        worker.fail(worker.claim(1)[0], "boom", retry=False)
        worker.claim(1)
        before = stored(server)
        for change in (
            lambda operator: operator.pause("r"),
            lambda operator: operator.cancel("r", ["t1", "t2"]),
            lambda operator: operator.retry("r", ["t0"]),
            lambda operator: operator.requeue("r"),
        ):
            with (
                Operator(without("HDEL", "ZREM")) as operator,
                pytest.raises(AuthenticationFailed, match="'hdel', 'zrem'"),
            ):
                change(operator)
            assert stored(server) == before
        with Operator(without("HDEL", "ZREM")) as operator:
            assert operator.stats("r").dead == 1  # who only reads needs no such right


def test_a_command_that_the_server_does_not_have_is_named(tmp_path: Path):
    more = tmp_path / "more.conf"
    more.write_text('rename-command HDEL ""\n')
    with ServerUnderTest(KINDS[0], settings={"include": str(more)}) as server:
        with pytest.raises(UnsupportedServer, match=r"(?i)hdel"):
            opened("sync", server.url)
        assert stored(server) == {}


def test_a_worker_of_two_runs_hears_which_right_it_lacks_in_one(server: ServerUnderTest):
    for run in ("a", "b"):
        opened("sync", server.url, run)
    server.command("ACL", "SETUSER", "u", "on", ">pw", "~rb1:{a}:*", "~rb1:{b}:state", "+@all")
    before = stored(server)
    with pytest.raises(AuthenticationFailed):
        Worker(server.url.replace("redis://", "redis://u:pw@"), ["b", "a"])
    assert {name: value for name, value in stored(server).items() if b"{b}" in name} == {
        name: value for name, value in before.items() if b"{b}" in name
    }


def documented(who: str) -> list[str]:
    """The commands that the page for operators lists, those inside scripts first."""
    (inside, others) = re.findall(rf"^\| {who} \| `([^`]*)` \| `([^`]*)` \|$", PAGE.read_text(), re.MULTILINE)[0]
    return [*inside.split(), *others.split()]


def test_the_rights_on_the_page_are_those_that_a_client_asks_for():
    for who, commands in (("a trainer", OF_TRAINERS), ("a worker", OF_WORKERS)):
        assert {command.lower() for command in commands} <= set(documented(who))


def test_the_rights_on_the_page_are_enough(server: ServerUnderTest):
    """Trainer and worker do what they usually do: retries, failures for good, released attempts, three steps."""
    for user in ("trainer", "worker"):
        may = [f"+{command}" for command in documented(f"a {user}")]
        server.command("ACL", "SETUSER", user, "on", ">pw", "~rb1:*", "-@all", *may)
    trainers, workers = (server.url.replace("redis://", f"redis://{user}:pw@") for user in ("trainer", "worker"))
    config = RunConfig(consumer_batch_size=2, max_attempts=2, retry_backoff_ms=1, max_staleness=1, lease_ms=60_000)
    with Trainer(trainers, "r", config) as trainer, Worker(workers, "r") as worker:
        trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(12))
        for step in range(3):
            first, second = worker.claim(2, timeout=20)
            worker.fail(first, "boom", retry=False)
            worker.fail(second, "boom")
            worker.release(worker.claim(1, timeout=20))
            while trainer.stats().ready < 2:
                worker.submit_many([(attempt, bytes(100_000)) for attempt in worker.claim(2, timeout=20)])
            assert len(trainer.next_batch(timeout=20)) == 2
            trainer.advance()
            assert trainer.version == step + 1


def test_rights_that_are_taken_in_mid_run_stop_the_worker_in_words(
    server: ServerUnderTest, without: Callable[..., str]
):
    """The script that met it has written a half; no later one does, and nothing is a bare Python error."""
    with Trainer(server.url, "r", CONFIG) as trainer:
        trainer.enqueue(Task(id=f"t{i}") for i in range(4))
        with Worker(without(), "r", heartbeat=False) as worker:
            (attempt,) = worker.claim(1)
            without("ZREM")
            for _ in range(2):
                with pytest.raises(AuthenticationFailed, match=r"(?i)zrem"):
                    worker.claim(1)
                left = stored(server)
            for call in (lambda: worker.submit(attempt, b"x"), worker.renew):
                with pytest.raises(AuthenticationFailed, match=r"(?i)zrem"):
                    call()
            changed = {name for name, value in stored(server).items() if left.get(name) != value}
            assert all(b":result:" in name for name in changed), "sent ahead of the submit, and nothing else"
            without()
            assert worker.submit(attempt, b"x").accepted
            for _ in range(3):
                try:
                    worker.claim(1)
                except BrokerError as error:
                    assert "audit" in str(error)


def test_a_server_is_asked_once_by_each_client(server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []
    missing = rights.missing
    monkeypatch.setattr(
        rights, "missing", lambda run, of, **more: (asked.append(tuple(of)), missing(run, of, **more))[1]
    )
    with Trainer(server.url, "r", CONFIG) as trainer, Worker(server.url, "r") as worker:
        trainer.enqueue(Task(id=f"t{i}") for i in range(4))
        for attempt in worker.claim(4):
            worker.submit(attempt, b"x")
        trainer.next_batch(timeout=20)
        trainer.advance()
        assert asked == [tuple(OF_TRAINERS), tuple(OF_WORKERS)]
