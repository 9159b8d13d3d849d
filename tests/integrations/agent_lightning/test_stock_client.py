"""Agent-lightning's own client against the gateway, and the bug that this project comes from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker.integrations.agent_lightning import Rollout, Server
from tests.conformance.cli.commands import started
from tests.integrations.agent_lightning.stock import AgentLightning
from tests.threads import InThread
from tests.waiting import wait_until

RUN = "agent-lightning/test"


def make_server(url: str, task_timeout_s: float = 60.0) -> Server:
    return Server(port=0, task_timeout_seconds=task_timeout_s, url=url, run=RUN)


@asynccontextmanager
async def serving(url: str, task_timeout_s: float = 60.0) -> AsyncGenerator[Server]:
    server = make_server(url, task_timeout_s)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def gateway_process(url: str) -> Generator[tuple[Any, str]]:
    with started("gateway", RUN, "--protocol", "agent-lightning", "--port", "0", "--url", url) as process:
        yield process, process.read_line()


def test_a_task_goes_to_an_asyncio_client_and_back(url: str, agentlightning: AgentLightning) -> None:
    types = agentlightning.types

    async def scenario() -> None:
        async with serving(url) as server:
            client = agentlightning.connect(server.endpoint, poll_interval=0.01)
            resources_id = await server.update_resources(
                {
                    "main_llm": types.LLM(
                        endpoint="http://127.0.0.1:1/v1", model="m", sampling_parameters={"top_p": 0.5}
                    ),
                    "prompt": types.PromptTemplate(template="You are {who}.", engine="f-string"),
                }
            )
            rollout_id = await server.queue_task({"question": "?"}, "train", resources_id, {"data_id": "d1"})
            task = await client.poll_next_task_async()
            assert (task.rollout_id, task.input, task.mode) == (rollout_id, {"question": "?"}, "train")
            assert task.metadata["data_id"] == "d1"
            update = await client.get_resources_by_id_async(task.resources_id)
            assert update.resources["prompt"].format(who="it") == "You are it."
            assert update.resources["main_llm"].sampling_parameters == {"top_p": 0.5}
            latest = await client.get_latest_resources_async()
            assert latest.model_dump() == update.model_dump()
            triplets = [types.Triplet(prompt="q", response={"token_ids": [1, 2]}, reward=1.0)]
            posted = types.RolloutLegacy(
                rollout_id=rollout_id,
                final_reward=0.5,
                triplets=triplets,
                trace=[{"name": "s"}],
                logs=["l"],
                metadata={"k": 1},
            )
            answer = await client.post_rollout_async(posted)
            assert answer == {"status": "ok", "message": f"Rollout {rollout_id} received and stored.", "data": None}
            rollout = await server.get_completed_rollout(rollout_id)
            assert rollout is not None
            assert rollout.model_dump() == posted.model_dump()
            assert rollout.triplets
            assert rollout.triplets[0].response["token_ids"] == [1, 2]
            assert await server.get_completed_rollout(rollout_id) is None

    asyncio.run(scenario())


def test_a_task_goes_to_a_synchronous_client_and_back(url: str, agentlightning: AgentLightning) -> None:
    types = agentlightning.types
    server = make_server(url)
    # As the trainers of agent-lightning run it: in a thread of its own, called through its loop.
    running = InThread(lambda: asyncio.run(server.run_forever()))
    assert server.startup_event.wait(10)

    def call(coroutine: Any) -> Any:
        assert server.loop
        return asyncio.run_coroutine_threadsafe(coroutine, server.loop).result(10)

    client = agentlightning.connect(server.endpoint, poll_interval=0.01)
    assert client.get_latest_resources() is None
    resources_id = call(server.update_resources({"prompt": types.PromptTemplate(template="t", engine="jinja")}))
    rollout_id = call(server.queue_task("a question"))
    task = client.poll_next_task()
    assert (task.input, task.resources_id, task.num_claims) == ("a question", None, 1)
    assert client.get_latest_resources().resources_id == resources_id
    assert client.get_resources_by_id("res-unknown") is None
    # What stock runners post when the agent failed: the task echoed, and nothing else.
    assert client.post_rollout(types.RolloutLegacy(rollout_id=rollout_id, task=task))["status"] == "ok"
    (rollout,) = call(server.retrieve_completed_rollouts())
    assert (rollout.rollout_id, rollout.final_reward, rollout.task.input) == (rollout_id, None, "a question")
    assert call(server.retrieve_completed_rollouts()) == []
    call(server.stop())
    running.result()


@pytest.mark.parametrize("late_first", [True, False])
def test_of_two_clients_that_submit_the_same_task_the_trainer_gets_one(
    url: str, agentlightning: AgentLightning, late_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    types = agentlightning.types

    async def scenario() -> None:
        async with serving(url, task_timeout_s=0.2) as server:
            stalling = agentlightning.connect(server.endpoint, poll_interval=0.01)
            other = agentlightning.connect(server.endpoint, poll_interval=0.01)
            rollout_id = await server.queue_task("question")
            first = await stalling.poll_next_task_async()
            second = await other.poll_next_task_async()  # comes when the broker has requeued it
            assert (first.rollout_id, second.rollout_id, second.num_claims) == (rollout_id, rollout_id, 2)
            own = {
                stalling: types.RolloutLegacy(rollout_id=rollout_id, final_reward=1.0),
                other: types.RolloutLegacy(rollout_id=rollout_id, final_reward=2.0),
            }
            order = [stalling, other] if late_first else [other, stalling]
            answers = [await client.post_rollout_async(own[client]) for client in order]
            assert [answer["status"] for answer in answers] == ["ok", "ok"]
            assert answers[0]["data"] is None
            assert answers[1]["data"]["instead"] == second.metadata["attempt_id"]
            rollouts = await server.retrieve_completed_rollouts()
            # Neither brought its attempt back, both come from one host: the first write wins.
            assert [rollout.final_reward for rollout in rollouts] == [own[order[0]].final_reward]
            assert await server.retrieve_completed_rollouts() == []

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.message.startswith("late: ")]


def test_a_client_that_echoes_its_task_is_fenced_although_it_is_first(url: str, agentlightning: AgentLightning) -> None:
    types = agentlightning.types

    async def scenario() -> None:
        async with serving(url, task_timeout_s=0.2) as server:
            client = agentlightning.connect(server.endpoint, poll_interval=0.01)
            rollout_id = await server.queue_task("question")
            first = await client.poll_next_task_async()
            second = await client.poll_next_task_async()
            late = await client.post_rollout_async(types.RolloutLegacy(rollout_id=rollout_id, task=first))
            assert late["data"]["attempt_id"] == first.metadata["attempt_id"]
            assert late["data"]["instead"] == second.metadata["attempt_id"]
            assert await server.retrieve_completed_rollouts() == []
            await client.post_rollout_async(types.RolloutLegacy(rollout_id=rollout_id, task=second, final_reward=2.0))
            (rollout,) = await server.retrieve_completed_rollouts()
            assert rollout.final_reward == 2.0

    asyncio.run(scenario())


class Crew:
    """Stock workers, some of which die with their task and some of which report it when another one has it too."""

    def __init__(self, agentlightning: AgentLightning, endpoints: list[str], seed: int) -> None:
        self._agentlightning, self.endpoints = agentlightning, endpoints
        self._random = random.Random(seed)
        self.stalled: dict[str, list[Any]] = {}
        self.reports = self.died = self.lost = self.late = 0

    async def work(self) -> None:
        while True:
            endpoint = self._random.choice(self.endpoints)
            client = self._agentlightning.connect(endpoint, poll_interval=0.02)
            try:
                async with asyncio.timeout(0.2):  # the stock client polls a gateway that was killed for ever
                    task = await client.poll_next_task_async()
            except TimeoutError:
                continue
            before = self.stalled.pop(task.rollout_id, [])
            for stalled in before:  # back at the worst time: between the claim of another one and its report
                await self.report(client, stalled)
            chance = self._random.random()
            if chance < 0.05:
                self.died += 1
            elif chance < 0.15:
                self.stalled.setdefault(task.rollout_id, []).append(task)
            else:
                await self.report(client, task)

    async def report(self, client: Any, task: Any) -> None:
        types = self._agentlightning.types
        echoed = {"task": task} if self._random.random() < 0.3 else {}
        self.reports += 1  # no two are alike: the same rollout once more would not be late
        rollout = types.RolloutLegacy(rollout_id=task.rollout_id, final_reward=float(self.reports), **echoed)
        answer = await client.post_rollout_async(rollout)
        if answer is None:
            self.lost += 1  # its gateway was killed; stock clients do not try again
        else:
            self.late += answer["data"] is not None


@pytest.mark.slow
@pytest.mark.processes
def test_completed_equals_queued_over_a_thousand_tasks(url: str, agentlightning: AgentLightning) -> None:
    tasks, workers = 1000, 8

    async def scenario(stack: ExitStack) -> None:
        async with serving(url, task_timeout_s=1.0) as server:
            queued = {await server.queue_task({"i": i}) for i in range(tasks)}
            gateways = [stack.enter_context(gateway_process(url)) for _ in range(2)]
            crew = Crew(agentlightning, [server.endpoint, *(endpoint for _, endpoint in gateways)], seed=7)
            working = [asyncio.create_task(crew.work()) for _ in range(workers)]
            completed: list[Rollout] = []
            async with asyncio.timeout(150):
                while len(completed) < tasks:
                    completed += await server.retrieve_completed_rollouts()
                    if gateways and len(completed) > tasks // 2:
                        process, endpoint = gateways.pop()
                        await asyncio.to_thread(process.kill)  # with requests under way
                        crew.endpoints.remove(endpoint)
                    await asyncio.sleep(0.05)
            for worker in working:
                worker.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            # Those that are still to come back find that they are not needed.
            client = agentlightning.connect(server.endpoint)
            late_before = crew.late
            for stalled in [task for several in crew.stalled.values() for task in several]:
                await crew.report(client, stalled)
                late_before += 1
            assert crew.late == late_before
            completed += await server.retrieve_completed_rollouts()
            assert sorted(rollout.rollout_id for rollout in completed) == sorted(queued)
            assert crew.died > 20
            assert crew.late > 20

    with ExitStack() as stack:
        asyncio.run(scenario(stack))


def test_the_task_of_a_killed_gateway_can_be_reported_through_another(url: str, agentlightning: AgentLightning) -> None:
    types = agentlightning.types

    async def scenario() -> None:
        async with serving(url) as server:
            rollout_id = await server.queue_task("question")
            with gateway_process(url) as (process, endpoint):
                doomed = agentlightning.connect(endpoint, poll_interval=0.01)
                task = await doomed.poll_next_task_async()
                await asyncio.to_thread(process.kill)
                assert await doomed.get_latest_resources_async() is None
            survivor = agentlightning.connect(server.endpoint)
            answer = await survivor.post_rollout_async(
                types.RolloutLegacy(rollout_id=task.rollout_id, final_reward=1.0)
            )
            assert answer["data"] is None
            (rollout,) = await server.retrieve_completed_rollouts()
            assert rollout.rollout_id == rollout_id

    asyncio.run(scenario())


def test_the_task_of_a_worker_that_died_comes_back_although_nobody_asks(
    url: str, agentlightning: AgentLightning
) -> None:
    async def scenario() -> None:
        async with serving(url, task_timeout_s=0.1) as server:
            await server.queue_task("question")
            client = agentlightning.connect(server.endpoint, poll_interval=0.01)
            await client.poll_next_task_async()
            assert server.loop
            from broker.operator import Operator

            def pending() -> bool:
                with Operator(url) as operator:
                    return operator.stats(RUN).pending == 1

            await asyncio.to_thread(wait_until, pending, "the broker has requeued the task")

    asyncio.run(scenario())
