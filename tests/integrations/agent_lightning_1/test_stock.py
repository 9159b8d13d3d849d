"""The stock programs of agent-lightning 1.x with the gateway in place of its server, and the losses of that one.

Each loss was measured with 1.0.2 and its own server; here none of them happens.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker import RunConfig
from tests.conformance.cli.commands import started
from tests.integrations.agent_lightning_1.models import fake_model
from tests.integrations.agent_lightning_1.serving import QUICK, RUN, Client, gateway
from tests.integrations.agent_lightning_1.stock import SOURCE_VARIABLE, Stock
from tests.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: The trainer's side, as the stock trainer uses it.
TRAINER = """
import json, sys
from agentlightning.verl.agl_rollout_manager import AglRolloutManager
url, model, samples, questions = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
manager = AglRolloutManager(
    agl_base_url=url, agl_key="secret", model="m", step=1, train_rollout_n=samples, poll_interval_seconds=0.2,
    local_agent_class="agents:Agent", local_env_map={"QUESTION": "input.q"},
)
manager.register_model([model])
done = manager.enqueue_and_wait_until_completed({"q": questions}, is_train=True)
manager.delete_model()
print(json.dumps([
    [one.input["q"], one.rollout_state.value, one.final_reward, len(one.triplets), len(one.events), one.error_message]
    for one in done
]))
"""


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    return Stock(tmp_path)


@pytest.fixture
def client(url: str, stock: Stock) -> Generator[Client]:
    config = RunConfig(**{**QUICK.model_dump(), "lease_ms": 10_000})
    with gateway(url, config) as client:
        yield client


def ended(client: Client, count: int) -> dict[str, list[Any]]:
    """Waits for so many rollouts to end: the state of each, and its rewards."""
    wait_until(
        lambda: client.get("/api/rollouts/terminal").json["total_terminal"] == count,
        f"{count} have ended",
        timeout_s=90,
    )
    items = client.get("/api/rollouts/terminal").json["items"]
    return {
        item["rollout_id"]: [item["state"], *(e["data"]["value"] for e in client.events(item["rollout_id"]))]
        for item in items
    }


def done(names: list[str]) -> dict[str, list[Any]]:
    """Each of these has succeeded, with one reward."""
    return {name: ["succeeded", 1.0] for name in names}


def running(client: Client, stock: Stock, names: list[str]) -> None:
    """Waits until all of these run."""
    wait_until(
        lambda: (
            all(client.status(name)["state"] == "running" for name in names) and set(stock.executions) >= set(names)
        ),
        "all of them run",
        timeout_s=60,
    )


def test_the_stock_trainer_and_the_stock_controller_run_a_job(url: str, stock: Stock) -> None:
    patient = RunConfig(**{**QUICK.model_dump(), "lease_ms": 60_000})  # no controller dies here
    with gateway(url, patient) as served, fake_model() as model, stock.controller(served.named("c"), ASKS="1"):
        completed = stock.script(TRAINER, served.endpoint, model.endpoint, "2", json.dumps(["a", "b", "bad"]))
        assert sorted(completed)[:4] == [[q, "succeeded", 1.0, 1, 2, None] for q in ("a", "a", "b", "b")]
        assert [one[:2] for one in sorted(completed)[4:]] == [["bad", "failed"]] * 2
        assert all("exited with code 3" in one[5] for one in sorted(completed)[4:])
        assert served.ids("succeeded", "failed") == [], "the trainer deleted all"
        counts = {question: stock.executions.count(question) for question in ("a", "b")}
        assert counts == {"a": 2, "b": 2}


def test_a_second_controller_ends_nothing_that_the_first_runs(client: Client, stock: Stock) -> None:
    """With its own server 6 of 6 running rollouts were failed, though all finished."""
    names = [f"r{i}" for i in range(6)]
    client.create(*names, config=stock.local)
    with stock.controller(client.named("one"), RUNS_S="8"):
        running(client, stock, names)
        with stock.controller(client.named("two"), RUNS_S="8"):
            assert ended(client, 6) == done(names)
    assert sorted(stock.executions) == names


def test_nor_does_one_with_the_same_address_and_no_name(client: Client, stock: Stock) -> None:
    names = [f"r{i}" for i in range(6)]
    client.create(*names, config=stock.local)
    with stock.controller(client, RUNS_S="5"):
        running(client, stock, names)
        with stock.controller(client, RUNS_S="5"):
            assert ended(client, 6) == done(names)
    assert sorted(stock.executions) == names


@pytest.mark.parametrize("named", [True, False])
def test_two_controllers_do_each_rollout_once(client: Client, stock: Stock, named: bool) -> None:
    """With its own server 6 of 8 failed, and 2 were done twice."""
    names = [f"r{i}" for i in range(8)]
    one, two = (client.named("one"), client.named("two")) if named else (client, client)
    with stock.controller(one, size=4), stock.controller(two, size=4):
        client.create(*names, config=stock.local)
        assert ended(client, 8) == done(names)
    assert sorted(stock.executions) == names


def killed_with_four(client: Client, stock: Stock, runs_s: int) -> list[str]:
    """Lets a controller `one` start four rollouts, and kills it. Returns their ids."""
    names = [f"r{i}" for i in range(4)]
    client.create(*names, config=stock.local)
    with stock.controller(client.named("one"), RUNS_S=str(runs_s)) as one:
        running(client, stock, names)
        one.kill()
        one.wait()
    return names


def test_what_a_killed_controller_ran_is_tried_again(client: Client, stock: Stock) -> None:
    """With its own server 4 of 4 failed, without another try."""
    names = killed_with_four(client, stock, runs_s=20)
    with stock.controller(client.named("two")):
        assert ended(client, 4) == done(names)
    assert sorted(stock.executions) == sorted(names * 2)
    # The agents of the killed one still run. What they report at their end is refused.
    wait_until(lambda: client.refused.get("events") == 4, "they have reported", timeout_s=60)
    assert ended(client, 4) == done(names)


def test_a_killed_controller_that_is_started_again_goes_on(client: Client, stock: Stock) -> None:
    names = killed_with_four(client, stock, runs_s=30)
    with stock.controller(client.named("one")):
        assert ended(client, 4) == done(names)


def test_a_restart_of_the_server_loses_nothing(url: str, stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own server 5 of 5 queued rollouts were lost."""
    monkeypatch.setenv("BROKER_URL", url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = ("gateway", RUN, "--protocol", "agent-lightning-1", "--port", port)
    names = [f"r{i}" for i in range(5)]
    with started(*command) as first:
        client = Client(first.read_line())
        client.create(*names, config=stock.local)
        # The agents work for longer than the server is away: one that cannot report its reward fails, and runs again.
        with stock.controller(client.named("one"), size=3, RUNS_S="15"):
            wait_until(lambda: len(stock.executions) == 3, "three of them run", timeout_s=60)
            first.kill()
            with started(*command) as second:
                assert second.read_line() == client.endpoint
                assert ended(client, 5) == done(names)
    assert sorted(stock.executions) == names


def test_its_own_servers_tests_pass(url: str, stock: Stock, tmp_path: Path) -> None:
    source = os.environ.get(SOURCE_VARIABLE)
    if not source:
        pytest.skip(f"{SOURCE_VARIABLE} does not name a checkout of agent-lightning 1.x")
    server = tmp_path / "tests" / "server"
    server.mkdir(parents=True)
    for folder in (server, server.parent):
        (folder / "__init__.py").touch()
    shutil.copy(Path(source, "tests", "server", "test_endpoints.py"), server)
    shutil.copy(Path(__file__).with_name("in_place.py"), server / "conftest.py")
    ran = stock.pytest(tmp_path, [str(server)], BROKER_URL=url)
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert re.search(r"\b1[45] passed", ran.stdout), ran.stdout
    assert "failed" not in ran.stdout
