"""What the page shows is true, and the example runs."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker.cli.commands.gateway import TOKEN_VARIABLE
from broker.integrations.agent_lightning import Server
from broker.operator import Operator
from tests.child import ROOT, Child, finished
from tests.integrations.agent_lightning.stock import AgentLightning
from tests.integrations.agent_lightning.wire import get
from tests.servers import free_port
from tests.waiting import wait_until

PAGE = (ROOT / "docs" / "integrations" / "agent-lightning.md").read_text(encoding="utf-8")
TRAINER, WORKER, RUN = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def answers(endpoint: str, path: str = "/resources/latest") -> bool:
    try:
        return get(endpoint, path).status == 200
    except ConnectionRefusedError:
        return False


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:AgentLightningClient is deprecated:DeprecationWarning")
def test_the_trainer_and_the_worker_of_the_page_work_together(
    url: str, agentlightning: AgentLightning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", url)
    port = str(free_port())
    with Child("-c", TRAINER.replace("9997", port)) as trainer:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the trainer serves", 30.0)
        exec(compile(WORKER.replace("9997", port), "the worker of the page", "exec"), {})  # noqa: S102 - the page's own code
        ended = trainer.end()
    assert (ended.code, ended.out) == (0, "8 rollouts, mean reward 1.00\n"), ended.err


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:AgentLightningClient is deprecated:DeprecationWarning")
def test_the_gateway_of_the_page_serves_the_run_of_its_trainer(url: str, agentlightning: AgentLightning) -> None:
    port = str(free_port())
    gateway = ("gateway", "math-7b", "--protocol", "agent-lightning", "--port", port, "--url", url)
    with Operator(url) as operator, Child("-c", RUN.replace("redis://head:6379/0", url)) as trainer:
        wait_until(lambda: "math-7b" in operator.runs(), "the trainer creates the run", 30.0)
        with Child("-m", "broker", *gateway):
            wait_until(lambda: answers(f"http://127.0.0.1:{port}", "/healthz"), "the gateway serves", 30.0)
            exec(compile(WORKER.replace("9997", port), "the worker of the page", "exec"), {})  # noqa: S102 - as above
            ended = trainer.end()
    assert (ended.code, ended.out) == (0, "8 rollouts, mean reward 1.00\n"), ended.err


@pytest.mark.processes
@pytest.mark.parametrize("with_url", [True, False])
def test_the_example_runs(url: str, with_url: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL", raising=False)
    words = ["examples/agent_lightning_gateway.py", *([url] if with_url else [])]
    result = finished(*words, env={"PYTHONPATH": str(ROOT)})
    assert (result.code, result.out) == (0, "20 of 20 rollouts, mean reward 1.00\n"), result.err
    assert "Traceback" not in result.err


def test_the_page_names_what_there_is() -> None:
    for name in re.findall(r"`(start|stop|run_forever|queue_task|update_resources|\w+_rollouts?)`", PAGE):
        assert callable(getattr(Server, name))
    assert TOKEN_VARIABLE in PAGE
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / "integrations" / link).exists(), link
