"""The trainer's side, in place of agent-lightning's own."""

from __future__ import annotations

import asyncio
import socket

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker import Worker
from broker.errors import BadArgument, Fenced
from broker.integrations.agent_lightning import Server
from tests.integrations.agent_lightning.test_protocol import RUN, played, serving
from tests.integrations.agent_lightning.wire import aget, apost, atask


def test_it_is_made_as_the_original_is() -> None:
    server = Server("127.0.0.1", 8123, 12.5)
    assert (server.endpoint, server.host, server.port, server.loop) == (
        "http://127.0.0.1:8123",
        "127.0.0.1",
        8123,
        None,
    )
    assert not server.startup_event.is_set()


def test_it_says_that_it_does_not_run(url: str) -> None:
    server = Server(port=0, url=url)

    @played
    async def _scenario() -> None:
        await server.stop()
        for call in (
            server.queue_task("q"),
            server.update_resources({}),
            server.get_completed_rollout("r"),
            server.retrieve_completed_rollouts(),
        ):
            with pytest.raises(RuntimeError, match="not running"):
                await call


def test_a_port_that_is_taken_is_an_error_and_nothing_is_left_open(url: str) -> None:
    @played
    async def _scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = Server(port=taken.getsockname()[1], url=url)
            with pytest.raises(OSError, match="in use"):
                await server.start()
            assert not server.startup_event.is_set()


@pytest.mark.parametrize("sample", [object(), {"a": {1, 2, object()}}, b"\xff"])
def test_a_sample_that_json_cannot_hold_is_refused_where_it_is_queued(url: str, sample: object) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            with pytest.raises(ValueError):
                await server.queue_task(sample)
            with pytest.raises(ValueError):
                await server.queue_task("q", "training")  # pyright: ignore[reportArgumentType] - users have no type checker


def test_rollouts_are_taken_one_by_one_or_all_at_once(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            ids = [await server.queue_task(i) for i in range(4)]
            assert [(await atask(server.endpoint))["rollout_id"] for _ in ids] == ids
            for rollout_id in reversed(ids):
                await apost(server.endpoint, {"rollout_id": rollout_id})
            third = await server.get_completed_rollout(ids[2])
            assert third is not None
            assert third.rollout_id == ids[2]
            assert await server.get_completed_rollout(ids[2]) is None
            assert sorted(r.rollout_id for r in await server.retrieve_completed_rollouts()) == sorted({*ids} - {ids[2]})
            assert await server.retrieve_completed_rollouts() == []


def test_the_result_of_a_worker_of_the_brokers_own_is_in_the_metadata(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            rollout_id = await server.queue_task("q")
            with Worker(url, RUN) as worker:
                (attempt,) = worker.claim(1)
                assert attempt.payload["input"] == "q"
                worker.submit(attempt, [1, 2])
            (rollout,) = await server.retrieve_completed_rollouts()
            assert (rollout.rollout_id, rollout.metadata) == (rollout_id, {"result": [1, 2]})


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(BadArgument, match="token"):
        Server(port=0, token="")


def test_a_rollout_is_waited_for(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            rollout_id = await server.queue_task("q")
            assert await server.poll_completed_rollout(rollout_id, timeout=0.01) is None
            waiting = asyncio.create_task(server.poll_completed_rollout(rollout_id))
            await atask(server.endpoint)
            await apost(server.endpoint, {"rollout_id": rollout_id, "final_reward": 1.0})
            rollout = await waiting
            assert rollout is not None
            assert rollout.final_reward == 1.0


def test_what_was_queued_and_reported_survives_the_trainer(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            ids = [await server.queue_task(i) for i in range(3)]
            tasks = [await atask(server.endpoint) for _ in range(2)]
            await apost(server.endpoint, {"rollout_id": ids[0], "final_reward": 0.0})
            taken = await server.retrieve_completed_rollouts()  # and never trained on: the process ends
            assert [rollout.rollout_id for rollout in taken] == [ids[0]]
        async with serving(url) as server:
            # Its worker is still at it, and knows nothing of all this.
            await apost(server.endpoint, {"rollout_id": ids[1], "attempt_id": tasks[1]["attempt_id"]})
            assert (await atask(server.endpoint))["rollout_id"] == ids[2]
            assert [r.rollout_id for r in await server.retrieve_completed_rollouts()] == [ids[0]]  # once more
            assert [r.rollout_id for r in await server.retrieve_completed_rollouts()] == [ids[1]]
            assert await server.retrieve_completed_rollouts() == []


def test_of_two_trainers_of_one_run_only_the_newer_goes_on(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as old, serving(url) as new:
            with pytest.raises(Fenced):
                await old.queue_task("q")
            await new.queue_task("q")
            # Workers may ask either: both are gateways of the run.
            assert (await aget(old.endpoint, "/task")).json["is_available"]


def test_run_and_server_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    monkeypatch.setenv("BROKER_RUN", RUN)

    @played
    async def _scenario() -> None:
        server = Server(port=0)
        await server.start()
        await server.start()  # a second time does nothing
        await server.queue_task("q")
        await server.stop()
        await server.stop()
        async with serving(url) as other:
            assert (await atask(other.endpoint))["input"] == "q"


def test_without_a_server_it_brings_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)

    @played
    async def _scenario() -> None:
        server = Server(port=0)
        await server.start()
        await server.queue_task("q")
        assert (await atask(server.endpoint))["input"] == "q"
        await server.stop()
