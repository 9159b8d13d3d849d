"""The broker's own controller: the contract of agent-lightning's, with attempts named in full."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker.integrations.agent_lightning_1.controller import Controller, environment_of
from tests.integrations.agent_lightning_1.serving import QUICK, Client, gateway
from tests.integrations.agent_lightning_1.stock import AGENT, ROOT
from tests.waiting import wait_until

LOCAL = {"local": {"agent_class": "agents:Agent", "env_map": {"QUESTION": "input.q"}}}


@pytest.fixture
def client(url: str) -> Generator[Client]:
    with gateway(url, QUICK.model_copy(update={"lease_ms": 10_000}), token="secret") as client:
        yield client


@pytest.fixture
def executions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "agents.py").write_text(
        AGENT.replace('"content-type"', '"authorization": "Bearer " + os.environ["AGL_KEY"], "content-type"')
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("EXECUTIONS", str(tmp_path / "executions"))
    (tmp_path / "executions").touch()
    return tmp_path / "executions"


@contextmanager
def controller(client: Client, name: str = "own", **options: Any) -> Generator[None]:
    """A controller in a thread of its own."""
    made: list[tuple[Controller, asyncio.AbstractEventLoop]] = []
    ready = threading.Event()

    async def run() -> None:
        one = Controller(client.endpoint, name, key=client.token or "", poll_s=0.1, **options)
        made.append((one, asyncio.get_running_loop()))
        ready.set()
        await one.run()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="test-controller")
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        one, loop = made[0]
        loop.call_soon_threadsafe(one.stop)
        thread.join(30)


def states(client: Client, *names: str) -> list[str]:
    return [client.status(name)["state"] for name in names]


@pytest.mark.processes
def test_it_runs_rollouts_and_names_their_attempts(client: Client, executions: Path) -> None:
    client.create("a", "b", "bad", config=LOCAL)
    client.create("none")
    with controller(client, size=4):
        wait_until(
            lambda: states(client, "a", "b", "bad", "none") == ["succeeded", "succeeded", "failed", "failed"],
            "all have ended",
            timeout_s=60,
        )
    assert executions.read_text().split().count("bad") == 3, "as often as the run says"
    assert "exited with code 3" in client.status("bad")["error_message"]
    assert "no local.agent_class" in client.status("none")["error_message"]
    assert client.status("a")["last_attempt_id"].startswith("1-")
    assert [event["data"]["value"] for event in client.events("a")] == [1.0]
    assert client.refused == {}


@pytest.mark.processes
def test_it_ends_agents_whose_attempt_is_over_and_gives_back_what_it_runs(
    client: Client, executions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNS_S", "60")
    client.create("a", "b", config=LOCAL)
    with controller(client):
        wait_until(lambda: len(executions.read_text().split()) == 2, "both run", timeout_s=60)
        client.request("DELETE", "/api/rollouts/a")
    assert states(client, "b") == ["queuing"]
    monkeypatch.setenv("RUNS_S", "0")
    with controller(client, "other"):
        wait_until(lambda: states(client, "b") == ["succeeded"], "another one runs it", timeout_s=60)
    assert executions.read_text().split() == ["a", "b", "b"] or executions.read_text().split() == ["b", "a", "b"]


@pytest.mark.processes
def test_it_ends_agents_after_their_time(client: Client, executions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS_S", "60")
    client.create("a", config={**LOCAL, "timeout_seconds": 1})
    with controller(client):
        wait_until(lambda: states(client, "a") == ["failed"], "its three attempts have timed out", timeout_s=90)
    assert client.status("a")["error_message"] == "local subprocess timed out"


def test_the_environment_of_an_agent() -> None:
    given = {"q": "text", "items": [{"n": 1}, None]}
    names = {"A": "input.q", "B": "input.items.0", "C": "input", "D": "plain", "E": "input.items.1"}
    assert environment_of(given, names) == {
        "A": "text",
        "B": '{"n": 1}',
        "C": '{"q": "text", "items": [{"n": 1}, null]}',
        "D": "plain",
        "E": "null",
    }
    for path in ("input.x", "input.items.2", "input.items.x", "input.q.x"):
        with pytest.raises(ValueError, match="the input has no"):
            environment_of(given, {"A": path})
