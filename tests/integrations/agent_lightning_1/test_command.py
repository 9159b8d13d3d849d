"""`broker gateway RUN --protocol agent-lightning-1` as a process of its own."""

from __future__ import annotations

import json
import signal

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")
pytest.importorskip("httpx", reason="the extra `gateway` is not installed")

from broker.cli.main import main
from broker.operator import Operator
from tests.conformance.cli.commands import started
from tests.integrations.agent_lightning_1.serving import RUN, Client

ARGUMENTS = ("gateway", RUN, "--protocol", "agent-lightning-1", "--port", "0")


@pytest.fixture(autouse=True)
def _server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", url)


@pytest.mark.processes
def test_it_serves_creates_the_run_and_loses_nothing_when_it_is_killed(url: str) -> None:
    with started(*ARGUMENTS, "--json") as process:
        said = json.loads(process.read_line())
        assert (said["run"], said["protocol"]) == (RUN, "agent-lightning-1")
        client = Client(said["endpoint"])
        client.create("r1", "r2", "r3")
        a = client.named("a")
        assert a.ids(limit=2) == ["r1", "r2"]
        a.patch("r1", "running", last_attempt_id="0")
        a.post_event("r1", value=1.0)
        process.kill()
    with started(*ARGUMENTS) as process:
        client = Client(process.read_line())
        a = client.named("a")
        assert [(r["rollout_id"], r["status"]["state"]) for r in a.listed()] == [("r1", "running"), ("r2", "queuing")]
        assert a.patch("r1", "succeeded", last_attempt_id="0").status == 200
        a.run("r2")
        assert a.ids() == ["r3"]
        a.run("r3")
        assert [client.status(name)["state"] for name in ("r1", "r2", "r3")] == ["succeeded"] * 3
        assert len(client.events("r1")) == 1
        process.send(signal.SIGTERM)
        assert process.end().code == 143
    with Operator(url) as operator:
        assert operator.stats(RUN).ready == 3


@pytest.mark.processes
def test_the_token_is_taken_from_the_environment() -> None:
    with started(*ARGUMENTS, env={"BROKER_GATEWAY_TOKEN": "secret"}) as process:
        endpoint = process.read_line()
        assert Client(endpoint).get("/api/rollouts/r1").status == 401
        assert Client(endpoint, "secret").get("/api/rollouts/r1").status == 404


def test_a_time_out_of_its_own_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--task-timeout", "3"]) == 2
    assert "attempt_timeout_ms" in capsys.readouterr().err
