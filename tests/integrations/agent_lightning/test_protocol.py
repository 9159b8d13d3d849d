"""The protocol on the wire, as a client in any language sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker import RunConfig, Task, Trainer, Worker
from broker.integrations.agent_lightning import Server, resources
from broker.integrations.agent_lightning.application import application
from broker.integrations.agent_lightning.claims import Timeouts
from broker.integrations.agent_lightning.gateway import Gateway
from broker.integrations.agent_lightning.messages import PostedRollout
from broker.integrations.http_server.serving import Listener
from tests.integrations.agent_lightning.wire import aget, apost, atask
from tests.waiting import wait_until

RUN = "wire/test"


@asynccontextmanager
async def serving(url: str, task_timeout_s: float = 60.0, **options: Any) -> AsyncGenerator[Server]:
    server = Server(port=0, task_timeout_seconds=task_timeout_s, url=url, run=RUN, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def gateway_of(url: str, task_timeout_s: float | None = None) -> AsyncGenerator[str]:
    """The endpoint of a gateway to a run that an ordinary trainer leads."""
    async with Gateway(url, RUN, task_timeout_s=task_timeout_s) as gateway:
        listener = Listener("127.0.0.1", 0)
        await listener.start(application(gateway))
        try:
            yield listener.endpoint
        finally:
            await listener.stop()


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def play() -> None:
        await scenario()

    asyncio.run(play())


def test_a_task_has_all_fields_of_the_protocol_and_its_attempt_id(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            assert (await aget(server.endpoint, "/task")).json == {"is_available": False, "task": None}
            rollout_id = await server.queue_task({"q": np.arange(3)}, "val", "res-1", {"data_id": 7})
            task = await atask(server.endpoint)
            attempt_id = task["attempt_id"]
            assert attempt_id.startswith(f"{rollout_id}#0.1.")
            assert task.pop("create_time") <= task.pop("last_claim_time")
            assert task == {
                "rollout_id": rollout_id,
                "input": {"q": [0, 1, 2]},
                "mode": "val",
                "resources_id": "res-1",
                "num_claims": 1,
                "metadata": {"data_id": 7, "attempt_id": attempt_id},
                "attempt_id": attempt_id,
            }
            await server.queue_task(None)
            assert list((await atask(server.endpoint))["metadata"]) == ["attempt_id"]


def test_a_task_is_not_handed_out_before_it_was_queued(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's clock knows milliseconds: one that was queued late in one may be handed out in the same."""

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            late = SimpleNamespace(time=lambda: 1_795_338_905.0189)
            monkeypatch.setattr("broker.integrations.agent_lightning.server.time", late)
            await server.queue_task({"q": 1})
            assert (await atask(server.endpoint))["create_time"] == 1_795_338_905.018


def test_a_task_that_timed_out_is_handed_out_again(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url, task_timeout_s=0.2) as server:
            rollout_id = await server.queue_task({"data": "stale"})
            first = await atask(server.endpoint)
            assert not (await aget(server.endpoint, "/task")).json["is_available"]
            second = await atask(server.endpoint)
            assert (first["rollout_id"], second["rollout_id"], second["num_claims"]) == (rollout_id, rollout_id, 2)
            assert second["last_claim_time"] > first["last_claim_time"]


def test_a_task_that_timed_out_is_requeued_although_nobody_asks(url: str) -> None:
    @played
    async def _scenario() -> None:
        with Trainer(url, RUN, RunConfig(consumer_batch_size=1, attempt_timeout_ms=100)) as trainer:
            trainer.enqueue(Task(id="t"))
            async with gateway_of(url) as endpoint:
                await atask(endpoint)
                # Looking takes nothing back: only the gateway does.
                await asyncio.to_thread(wait_until, lambda: trainer.stats().pending == 1, "the task is requeued")


def test_resources_are_served_to_all_and_the_missing_ones_are_not_found(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server, gateway_of(url) as other:
            missing = await aget(other, "/resources/latest")
            assert (missing.status, missing.json) == (404, {"detail": "No resources have been set on the server."})
            unknown = await aget(other, "/resources/res-0")
            assert (unknown.status, unknown.json) == (404, {"detail": "Resource ID 'res-0' not found."})
            template = {"resource_type": "prompt_template", "template": "t", "engine": "jinja"}
            old = await server.update_resources({"a": template})
            new = await server.update_resources({"b": template})
            latest = (await aget(other, "/resources/latest")).json
            assert (latest["resources_id"], latest["version"], latest["resources"]) == (new, 1, {"b": template})
            assert (await aget(other, f"/resources/{old}")).json["resources"] == {"a": template}


def test_only_the_newest_resources_are_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "KEPT", 2)

    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            ids = [await server.update_resources({}) for _ in range(4)]
            found = [(await aget(server.endpoint, f"/resources/{name}")).status for name in ids]
            assert found == [404, 404, 200, 200]


@pytest.mark.parametrize("place", ["top", "metadata", "task", "task metadata"])
def test_a_late_rollout_is_answered_counted_logged_and_not_stored(
    url: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def bringing(task: dict[str, Any], reward: float) -> dict[str, Any]:
        attempt_id = task["attempt_id"]
        posted: dict[str, Any] = {"rollout_id": task["rollout_id"], "final_reward": reward}
        echoed = {"rollout_id": task["rollout_id"], "input": 1}
        match place:
            case "top":
                return {**posted, "attempt_id": attempt_id}
            case "metadata":
                return {**posted, "metadata": {"attempt_id": attempt_id}}
            case "task":
                return {**posted, "task": {**echoed, "attempt_id": attempt_id}}
            case _:
                return {**posted, "task": {**echoed, "metadata": {"attempt_id": attempt_id}}}

    @played
    async def _scenario() -> None:
        async with serving(url, task_timeout_s=0.2) as server:
            await server.queue_task("q")
            first, second = await atask(server.endpoint), await atask(server.endpoint)
            late = await apost(server.endpoint, bringing(first, 1.0))
            assert late.status == 200
            assert late.json["status"] == "ok"
            assert late.json["data"] == {
                "answer": "superseded",
                "why": "",
                "attempt_id": first["attempt_id"],
                "instead": second["attempt_id"],
            }
            good = await apost(server.endpoint, bringing(second, 2.0))
            assert good.json["message"] == f"Rollout {second['rollout_id']} received and stored."
            again = await apost(server.endpoint, bringing(second, 2.0))
            assert again.json == good.json  # an answer that was lost
            assert [rollout.final_reward for rollout in await server.retrieve_completed_rollouts()] == [2.0]
            with Trainer(url, RUN, attach=True) as reader:
                assert reader.stats().totals["late"] == 1
            (logged,) = [record.message for record in caplog.records if record.message.startswith("late: ")]
            assert first["attempt_id"] in logged
            assert second["attempt_id"] in logged


@pytest.mark.parametrize("brings", [True, False], ids=["brought", "claimed once"])
def test_a_second_and_different_rollout_for_one_attempt_is_late(url: str, brings: bool) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            await server.queue_task("q")
            task = await atask(server.endpoint)
            own = {"attempt_id": task["attempt_id"]} if brings else {}
            first = {"rollout_id": task["rollout_id"], "final_reward": 1.0, **own}
            stored = await apost(server.endpoint, first)
            other = await apost(server.endpoint, {**first, "final_reward": 2.0})
            assert "too late and was not stored" in other.json["message"]
            assert other.json["data"]["instead"] == task["attempt_id"]
            assert (await apost(server.endpoint, first)).json == stored.json  # an answer that was lost
            assert [rollout.final_reward for rollout in await server.retrieve_completed_rollouts()] == [1.0]


def test_clients_on_several_hosts_need_not_bring_anything_back(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url, task_timeout_s=0.1) as server, Gateway(url, RUN) as gateway:
            reader = Trainer(url, RUN, attach=True)
            rollout_id = await server.queue_task("q")
            assert await gateway.next_task("host-a")
            async with asyncio.timeout(10):
                while not await gateway.next_task("host-b"):
                    await asyncio.to_thread(reader.requeue)
            late = await gateway.receive(PostedRollout(rollout_id=rollout_id, final_reward=1.0), "host-a")
            assert (late.stored, late.answer) == (False, "superseded")
            assert (await gateway.receive(PostedRollout(rollout_id=rollout_id, final_reward=2.0), "host-b")).stored
            (rollout,) = await server.retrieve_completed_rollouts()
            assert rollout.final_reward == 2.0
            reader.close()


def test_of_those_whom_nobody_can_tell_apart_exactly_one_is_told_that_it_is_stored(url: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url, task_timeout_s=0.2) as server:
            await server.queue_task("q")
            first, second = await atask(server.endpoint), await atask(server.endpoint)
            rollout_id = first["rollout_id"]
            answers = await asyncio.gather(
                *(apost(server.endpoint, {"rollout_id": rollout_id, "final_reward": float(i)}) for i in range(6)),
                apost(server.endpoint, {"rollout_id": rollout_id, "attempt_id": second["attempt_id"]}),
            )
            assert [answer.status for answer in answers] == [200] * 7
            assert [answer.json["data"] is None for answer in answers].count(True) == 1
            assert len(await server.retrieve_completed_rollouts()) == 1


@pytest.mark.parametrize("rollout_id", ["rollout-of-nobody", "not a name", "", "x" * 300, "group#1"])
def test_a_rollout_of_no_task_is_answered_and_not_stored(url: str, rollout_id: str) -> None:
    @played
    async def _scenario() -> None:
        async with serving(url) as server:
            answer = await apost(server.endpoint, {"rollout_id": rollout_id})
            assert (answer.status, answer.json["data"]["answer"]) == (200, "unknown")
            assert await server.retrieve_completed_rollouts() == []


def test_a_group_of_an_ordinary_trainer_goes_out_sample_by_sample(url: str) -> None:
    config = RunConfig(consumer_batch_size=1, max_concurrent_rollouts=4)
    with Trainer(url, RUN, config) as trainer:
        trainer.enqueue(Task(id="gsm8k/1", payload={"question": "?"}, samples=3))

        @played
        async def _scenario() -> None:
            async with gateway_of(url) as endpoint:
                tasks = [await atask(endpoint) for _ in range(3)]
                assert [task["rollout_id"] for task in tasks] == ["gsm8k/1#0", "gsm8k/1#1", "gsm8k/1#2"]
                assert all(task["input"] == {"question": "?"} for task in tasks)
                assert (await apost(endpoint, {"rollout_id": "gsm8k/1"})).json["data"]["answer"] == "superseded"
                for i, task in enumerate(tasks):
                    posted = {"rollout_id": task["rollout_id"], "final_reward": float(i)}
                    assert (await apost(endpoint, posted)).json["data"] is None

        (rollout,) = trainer.next_batch(timeout=5)
        assert [result["final_reward"] for result in rollout.results] == [0.0, 1.0, 2.0]
        trainer.advance()


def test_workers_of_both_kinds_share_a_run(url: str) -> None:
    with Trainer(url, RUN, RunConfig(consumer_batch_size=2, max_concurrent_rollouts=2)) as trainer:
        trainer.enqueue(Task(id=f"t{i}", payload=i) for i in range(2))

        @played
        async def _scenario() -> None:
            async with gateway_of(url, task_timeout_s=0.2) as endpoint:
                task = await atask(endpoint)
                with Worker(url, RUN) as worker:
                    other = worker.claim(1)[0]
                    while not (taken := await asyncio.to_thread(worker.claim, 1, 1.0)):
                        pass
                    late = await apost(endpoint, {"rollout_id": task["rollout_id"]})
                    assert late.json["data"]["instead"] == taken[0].id
                    for attempt in (other, *taken):
                        assert worker.submit(attempt, "native").accepted

        assert [rollout.results for rollout in trainer.next_batch(timeout=5)] == [["native"], ["native"]]


def test_a_payload_that_json_cannot_hold_ends_its_task_and_no_other(url: str) -> None:
    with Trainer(url, RUN, RunConfig(consumer_batch_size=2, max_concurrent_rollouts=4)) as trainer:
        trainer.enqueue([Task(id="bytes", payload=b"\xff\xfe"), Task(id="array", payload=np.eye(2))])

        @played
        async def _scenario() -> None:
            async with gateway_of(url) as endpoint:
                task = await atask(endpoint)
                assert (task["rollout_id"], task["input"]) == ("array", [[1.0, 0.0], [0.0, 1.0]])

        assert trainer.stats().dead == 1


def test_the_time_limit_of_the_gateway_holds_where_the_run_has_none(url: str) -> None:
    with Trainer(url, RUN, RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id="t"))

        @played
        async def _scenario() -> None:
            async with gateway_of(url, task_timeout_s=0.2) as endpoint:
                assert (await atask(endpoint))["num_claims"] == 1
                assert (await atask(endpoint))["num_claims"] == 2


@pytest.mark.parametrize(
    ("attempt_timeout_ms", "task_timeout_ms", "task_ms"),
    [(0, None, 300_000), (0, 5_000, 5_000), (8_000, None, 8_000), (8_000, 20_000, 8_000), (8_000, 5_000, 5_000)],
)
def test_the_shorter_time_limit_holds(attempt_timeout_ms: int, task_timeout_ms: int | None, task_ms: int) -> None:
    config = RunConfig(consumer_batch_size=1, attempt_timeout_ms=attempt_timeout_ms)
    limits = Timeouts.of(config, task_timeout_ms)
    assert limits.task_ms == task_ms
    # By the sessions where the run's own limit does not, which must not come first where it does.
    assert limits.lease_ms == task_ms if task_ms != attempt_timeout_ms else limits.lease_ms > task_ms + limits.window_ms


def test_nothing_is_handed_out_while_the_run_is_paused_or_gone(url: str) -> None:
    with Trainer(url, RUN, RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id="t"))

        @played
        async def _scenario() -> None:
            from broker.operator import Operator

            async with gateway_of(url) as endpoint:
                await asyncio.to_thread(trainer.pause)
                assert not (await aget(endpoint, "/task")).json["is_available"]
                await asyncio.to_thread(trainer.resume)
                assert (await atask(endpoint))["rollout_id"] == "t"
                with Operator(url) as operator:
                    operator.purge(RUN)
                assert (await aget(endpoint, "/task")).json == {"is_available": False, "task": None}
                assert (await apost(endpoint, {"rollout_id": "t"})).status == 503
