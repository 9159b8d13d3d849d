"""Each role that `broker acl` prints can do what it is for, and nothing of what the others are for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker
from broker.cli.main import main
from broker.connections import open_transport
from broker.errors import AuthenticationFailed, BrokerError
from broker.inspection.events import Follower
from broker.inspection.timeline import Timeline
from broker.integrations.agent_lightning.gateway import Gateway as LegacyGateway
from broker.integrations.agent_lightning.messages import PostedRollout, ResourcesUpdate
from broker.integrations.agent_lightning_1.gateway import Gateway
from broker.integrations.agent_lightning_1.messages import EventCreate, RolloutCreate, RolloutState, StatusPatch
from broker.integrations.agent_lightning_1.models import Model, PauseRequest
from broker.integrations.agent_lightning_1.shares import Who
from broker.operator import Operator
from broker.protocol import keys, rights, scripts
from broker.protocol.roles import ROLES, rules
from broker.web.snapshot import snapshot
from tests.servers import ServerUnderTest, real_kinds

#: Servers with functions, and with rights by keys that may only be read.
KINDS = [kind for kind in real_kinds() if kind.supports_shebang]
RUN = "team/math-7b"
CONFIG = RunConfig(consumer_batch_size=2, max_attempts=2, retry_backoff_ms=1, max_staleness=1, lease_ms=60_000)


@pytest.fixture(params=KINDS, ids=str)
def server(request: pytest.FixtureRequest) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as started:
        yield started


@pytest.fixture
def as_role(server: ServerUnderTest, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Makes the user of a role, as the command prints it. Returns the user's URL."""

    def made(role: str, *options: str) -> str:
        assert main(["acl", *(options or (RUN,)), "--role", role, "--user", role]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        server.command(*line.split())
        server.command("ACL", "SETUSER", role, ">pw")
        return server.url.replace("redis://", f"redis://{role}:pw@")

    return made


@pytest.fixture
def busy(server: ServerUnderTest) -> Generator[Trainer]:
    """The run with a trained step, a dead task, one that is held and some that wait; its library is on the server."""
    with Trainer(server.url, RUN, CONFIG) as trainer, Worker(server.url, RUN, name="w", heartbeat=False) as worker:
        trainer.enqueue(Task(id=f"t{i}") for i in range(6))
        worker.fail(worker.claim(1)[0], "boom", retry=False)
        for attempt in worker.claim(2):
            worker.submit(attempt, b"x")
        trainer.next_batch(timeout=20)
        trainer.advance()
        worker.claim(1)
        yield trainer


def stored(server: ServerUnderTest) -> dict[bytes, bytes]:
    return {name: server.command("DUMP", name) for name in server.command("KEYS", "*")}


def refused(url: str, *command: str | int) -> None:
    with open_transport(url) as transport, pytest.raises(BrokerError, match=r"(?i)permission|NOPERM|access"):
        transport.command(*command)


def test_trainer_and_worker_train_save_and_recover(as_role: Callable[..., str], tmp_path: Path):
    trainers, workers = as_role("trainer"), as_role("worker")
    path = tmp_path / "broker.json"
    with Trainer(trainers, RUN, CONFIG) as trainer, Worker(workers, RUN) as worker:
        trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(14))
        for step in range(3):
            first, second = worker.claim(2, timeout=20)
            worker.fail(first, "boom", retry=False)
            worker.fail(second, "boom")
            worker.release(worker.claim(1, timeout=20))
            while trainer.stats().ready < 3:
                worker.submit_many([(attempt, bytes(100_000)) for attempt in worker.claim(2, timeout=20)])
            seen = iter([False])
            assert len(trainer.next_batch(accept=lambda _, seen=seen: next(seen, True), timeout=20)) == 2
            trainer.advance()
            trainer.checkpoint(path, full=True)
            assert trainer.version == step + 1
        trainer.pause()
        trainer.resume()
        trainer.prioritise({"t13": 5})
        trainer.configure(max_concurrent_rollouts=5)
        trainer.cancel(["t12"])
        trainer.retry(["t12"])
        assert trainer.audit().ok
        assert trainer.explain().stats.version == 3
        trainer.recover(path)
        trainer.finish()


def test_a_gateway_of_agent_lightning_1_does_all_that_it_is_asked(server: ServerUnderTest, as_role: Callable[..., str]):
    url, one, both = as_role("gateway"), Who("c", False), frozenset({RolloutState.QUEUING, RolloutState.RUNNING})

    async def work() -> None:
        async with Gateway(url, RUN) as gateway:
            await gateway.rollouts.create([RolloutCreate(input=i, rollout_id=f"r{i}") for i in range(4)])
            assert len(await gateway.controllers.listed(one, both, 3)) == 3
            for state in (RolloutState.RUNNING, RolloutState.SUCCEEDED):
                await gateway.changes.patch(one, "r0", StatusPatch(state=state))
            for message in ("boom", "local controller shutdown"):
                failed = StatusPatch(state=RolloutState.FAILED, error_message=message)
                await gateway.changes.patch(one, "r1" if message == "boom" else "r2", failed)
            await gateway.events.add("r0", "0", EventCreate(event_type="reward", data={"value": 1}))
            experts = {"messages": [{"role": "user", "content": "x"}], "routed_experts": "AA=="}
            for _ in range(2):
                await gateway.events.add("r0", "0", EventCreate(event_type="model_request", data=experts))
            await gateway.storage.replace_event("r0", "0", 0, b"{}")
            await gateway.storage.silent_for_s("r3#0.1.x")
            await gateway.storage.refuse("events")
            await gateway.rollouts.delete("r3")
            await gateway._look(0)
            assert [rollout for rollout, _, _ in (await gateway.rollouts.ended(0, 10)).items] == ["r0"]
            assert await gateway.rollouts.get("r0")
            assert await gateway.storage.refused() == {"events": 1}
            await gateway.models.register([Model(model="m", endpoint="http://x")])
            await gateway.models.pause(PauseRequest())
            await gateway.models.leave((await gateway.models.enter()).ticket)
            await gateway.models.resume()
            await gateway.models.delete_all()

    asyncio.run(work())
    assert server.command("ACL", "LOG") == []


def test_a_gateway_of_agent_lightning_does_all_that_it_is_asked(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str]
):
    url = as_role("gateway")

    async def work() -> None:
        async with LegacyGateway(url, RUN) as gateway:
            task = await gateway.next_task("c")
            assert task is not None
            posted = PostedRollout.model_validate({"rollout_id": task.rollout_id, "final_reward": 1.0})
            assert (await gateway.receive(posted, "c")).stored
            other = PostedRollout.model_validate({"rollout_id": task.rollout_id, "final_reward": 2.0})
            assert not (await gateway.receive(other, "c")).stored
            await gateway.resources.publish(
                ResourcesUpdate(resources_id="r", create_time=1.0, update_time=1.0, resources={})
            )
            assert await gateway.resources.latest()
            await gateway._look(0)

    server.command("ACL", "LOG", "RESET")
    asyncio.run(work())
    assert server.command("ACL", "LOG") == []


def test_a_worker_that_comes_before_the_library_works_by_scripts(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str]
):
    server.command("FUNCTION", "FLUSH")
    server.command("SCRIPT", "FLUSH")
    with Worker(as_role("worker"), RUN) as worker:
        (attempt,) = worker.claim(1, timeout=20)
        assert worker.submit(attempt, b"x").accepted
    assert not server.command("FUNCTION", "LIST")


CHANGES: dict[str, Callable[[Operator], Any]] = {
    "pause": lambda operator: operator.pause(RUN),
    "cancel": lambda operator: operator.cancel(RUN, ["t5"]),
    "forget": lambda operator: operator.forget(RUN, ["t4"]),
    "retry": lambda operator: operator.retry(RUN, ["t0"]),
    "configure": lambda operator: operator.configure(RUN, lease_ms=1000),
    "finish": lambda operator: operator.finish(RUN),
    "recover": lambda operator: operator.recover(RUN, version=0),
    "purge": lambda operator: operator.purge(RUN),
}
OTHERS = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("KEYS", "*"),
    ("DEL", keys.state(RUN)),
    ("EVAL", "return 1", 0),
    ("FUNCTION", "FLUSH"),
    ("FUNCTION", "LOAD", "REPLACE", "#!lua name=x\nredis.register_function('x', function() end)"),
    ("SCRIPT", "FLUSH"),
    ("SHUTDOWN",),
    ("PUBLISH", "channel", "x"),
    ("HGETALL", keys.state("team/other")),
    ("SET", keys.key("team/other", "result:x"), "1"),
]


@pytest.mark.parametrize("library", ["there", "gone"])
@pytest.mark.parametrize("role", ["worker", "observer"])
def test_who_works_or_looks_changes_nothing_as_an_operator(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str], role: str, library: str
):
    url = as_role(role)
    if library == "gone":
        server.command("FUNCTION", "FLUSH")
    before = stored(server)
    for name, change in CHANGES.items():
        with Operator(url) as operator, pytest.raises(AuthenticationFailed):
            change(operator)
        assert stored(server) == before, name
    for command in OTHERS:
        refused(url, *command)
    assert stored(server) == before
    with pytest.raises(AuthenticationFailed):
        Trainer(url, RUN, CONFIG)
    assert stored(server) == before


def test_a_worker_may_still_harm_its_own_run_by_hand(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str]
):
    """The page says so: the commands inside scripts are the user's own."""
    with open_transport(as_role("worker")) as transport:
        transport.command("HSET", keys.state(RUN), "version", "7")
        assert transport.command("UNLINK", keys.state(RUN)) == 1


def test_an_observer_writes_no_key_and_joins_no_run(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str]
):
    url = as_role("observer")
    for command in ("SET", "HSET", "ZADD", "UNLINK", "XADD"):
        refused(url, command, keys.state(RUN), "1", "2", "3")
    with pytest.raises(AuthenticationFailed):
        Worker(url, RUN)


@pytest.mark.parametrize("library", ["there", "gone"])
def test_an_observer_sees_all_views(
    server: ServerUnderTest,
    busy: Trainer,
    as_role: Callable[..., str],
    library: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    url = as_role("observer")
    monkeypatch.setenv("BROKER_URL", url)
    if library == "gone":
        server.command("FUNCTION", "FLUSH")
        server.command("SCRIPT", "FLUSH")
    before = stored(server)
    for argv in (
        ["status", RUN],
        ["explain", RUN],
        ["health", RUN, "--trainer"],
        ["metrics", RUN],
        ["tail", RUN, "--from", "start", "--no-follow"],
        ["audit", RUN],
        ["audit", RUN, "--deep"],
        ["verify", RUN],
        ["dead", RUN, "list"],
        ["dead", RUN, "show", "t0"],
    ):
        assert main(argv) == 0, (argv, capsys.readouterr())
    with Operator(url) as operator:  # what `watch` and the page of a run show
        timeline = Timeline()
        timeline.read(Follower.of_the_last(operator.transport.command, RUN, 500))
        assert snapshot(operator.explain(RUN), timeline)["steps"][0]["size"] == 2
    assert stored(server) == before


def test_an_observer_of_a_prefix_lists_the_runs_and_sees_no_other(
    server: ServerUnderTest,
    busy: Trainer,
    as_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    Trainer(server.url, "secret", CONFIG).close()
    monkeypatch.setenv("BROKER_URL", as_role("observer", "--prefix", "team/"))
    assert main(["status", RUN]) == 0
    capsys.readouterr()
    assert main(["status", "secret"]) == 2
    assert "secret" not in capsys.readouterr().out
    with Operator(as_role("observer", "--prefix", "team/")) as operator:
        assert RUN in operator.runs()


def test_an_admin_does_everything_to_its_run_and_nothing_to_others(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str]
):
    Trainer(server.url, "other", CONFIG).close()
    url = as_role("admin")
    with Operator(url) as operator:
        for name, change in CHANGES.items():
            if name != "purge":
                change(operator)
        assert operator.libraries()
        with pytest.raises(AuthenticationFailed):
            operator.pause("other")
        with pytest.raises(AuthenticationFailed):
            operator.purge("other")
        assert operator.purge(RUN) > 1
    for command in (("FLUSHALL",), ("KEYS", "*"), ("ACL", "LIST"), ("SHUTDOWN",), ("CONFIG", "SET", "timeout", "1")):
        refused(url, *command)
    assert server.command("EXISTS", keys.state("other")) == 1


def test_a_password_outlives_new_rights(
    server: ServerUnderTest, busy: Trainer, as_role: Callable[..., str], capsys: Any
):
    url = as_role("worker")
    for more in ((), ("--add",)):
        assert main(["acl", RUN, "--role", "worker", "--user", "worker", *more]) == 0
        server.command(*capsys.readouterr().out.split())
        with Worker(url, RUN) as worker:
            assert worker.sessions


def test_every_script_is_some_role_s():
    every = set(scripts.names())
    assert {name for role in ROLES.values() for name in role.scripts} == every
    assert set(ROLES["observer"].scripts) == rights.READING
    assert not set(ROLES["worker"].scripts) & {"cancel", "pause", "open", "recover_begin", "take", "advance", "retry"}


def test_each_rule_of_a_line_is_one_word():
    for role in ROLES.values():
        for rule in rules(role, RUN):
            assert " " not in rule


def test_the_command_prints_json_files_and_refuses_what_is_unclear(capsys: pytest.CaptureFixture[str]):
    assert main(["acl", "a/b", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user"] for row in rows] == [f"a/b-{name}" for name in ROLES]
    assert main(["acl", "a", "--file", "--role", "observer"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("user a-observer on resetkeys resetchannels -@all %R~rb1:{a}:* ")
    for wrong in ([], ["a", "--prefix", "b"], ["a b"], ["a", "--user", "u"], ["a", "--file", "--add"]):
        assert main(["acl", *wrong]) == 2
        assert capsys.readouterr().out == ""
