"""`broker gateway` as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from broker import RunConfig, Task, Trainer
from broker.cli.main import main
from tests.child import finished
from tests.conformance.cli.commands import started
from tests.integrations.agent_lightning.test_protocol import RUN
from tests.integrations.agent_lightning.wire import get, post, request
from tests.waiting import wait_until

ARGUMENTS = ("gateway", RUN, "--protocol", "agent-lightning", "--port", "0")


@pytest.fixture
def trainer(url: str, monkeypatch: pytest.MonkeyPatch) -> Generator[Trainer]:
    monkeypatch.setenv("BROKER_URL", url)
    with Trainer(url, RUN, RunConfig(consumer_batch_size=2, attempt_timeout_ms=60_000)) as trainer:
        trainer.enqueue(Task(id=f"t{i}", payload=i) for i in range(2))
        yield trainer


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_until_it_is_told_to_stop(trainer: Trainer, number: int, code: int) -> None:
    with started(*ARGUMENTS, "--json") as process:
        said = json.loads(process.read_line())
        assert (said["run"], said["protocol"], said["pid"]) == (RUN, "agent-lightning", process.pid)
        endpoint = said["endpoint"]
        task = get(endpoint, "/task").json["task"]
        process.send(number)
        result = process.end()
        assert (result.code, result.out, result.err) == (code, "", "")
        with pytest.raises(ConnectionRefusedError):
            get(endpoint, "/task")
    # The worker keeps its task, and reports it through the next gateway.
    assert trainer.stats().running == 1
    with started(*ARGUMENTS) as process:
        assert post(process.read_line(), {"rollout_id": task["rollout_id"]}).json["data"] is None
    assert trainer.stats().ready == 1


@pytest.mark.processes
def test_several_gateways_hand_out_each_task_once(trainer: Trainer) -> None:
    with started(*ARGUMENTS) as one, started(*ARGUMENTS) as other:
        endpoints = [one.read_line(), other.read_line()]
        taken = [get(endpoint, "/task").json["task"]["rollout_id"] for endpoint in endpoints]
        assert sorted(taken) == ["t0", "t1"]
        assert not get(endpoints[0], "/task").json["is_available"]
        for endpoint, rollout_id in zip(reversed(endpoints), taken, strict=True):
            post(endpoint, {"rollout_id": rollout_id, "final_reward": 1.0})
    assert len(trainer.next_batch(timeout=5)) == 2


@pytest.mark.processes
def test_the_tasks_of_a_killed_gateway_come_back(trainer: Trainer) -> None:
    with started(*ARGUMENTS, "--task-timeout", "0.2") as process:
        endpoint = process.read_line()
        assert {get(endpoint, "/task").json["task"]["rollout_id"] for _ in range(2)} == {"t0", "t1"}
        process.kill()
    assert trainer.stats().running == 2
    wait_until(lambda: trainer.requeue() and trainer.stats().pending == 2, "the broker has requeued them")


@pytest.mark.processes
def test_its_limits_are_options(trainer: Trainer) -> None:
    with started(*ARGUMENTS, "--max-request-bytes", "100", env={"BROKER_GATEWAY_TOKEN": "secret"}) as process:
        endpoint = process.read_line()
        assert get(endpoint, "/task").status == 401
        assert get(endpoint, "/task", Authorization="Bearer secret").status == 200
        assert post(endpoint, {"rollout_id": "t" * 100}, Authorization="Bearer secret").status == 413


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    complaint = capsys.readouterr().err
    assert "Traceback" not in complaint
    return complaint


def test_it_says_why_it_cannot(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "agent-lightning" in refused(capsys, "gateway", RUN, "--protocol", "smtp", "--port", "0")
    assert "--port" in refused(capsys, "gateway", RUN, "--protocol", "agent-lightning")
    assert "65535" in refused(capsys, "gateway", RUN, "--protocol", "agent-lightning", "--port", "70000")
    assert "empty" in refused(capsys, *ARGUMENTS, "--token", "")
    for token in "ü", "two words", "line\n":
        assert "no worker could send" in refused(capsys, *ARGUMENTS, "--token", token)
    assert "--host 0.0.0.0 for all" in refused(capsys, *ARGUMENTS, "--host", "")
    assert "[NORUN]" in refused(capsys, "gateway", "other", *ARGUMENTS[2:])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use" in refused(capsys, "gateway", RUN, "--protocol", "agent-lightning", "--port", port)


@pytest.mark.processes
def test_without_the_extra_it_says_what_to_install(trainer: Trainer) -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.modules['starlette.applications'] = None\n"
        "from broker.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    result = finished("-c", code, *ARGUMENTS)
    assert result.code == 2
    assert "pip install 'rollout-broker[gateway]'" in result.err


@pytest.mark.processes
def test_many_large_bodies_at_once_take_little_memory(trainer: Trainer) -> None:
    """Without the bound on bytes in flight, 20 bodies of 8 MB are all in memory, and parsed there."""
    size, clients = 8 * 1024 * 1024, 20
    limits = ("--max-request-bytes", str(size + 1000), "--max-bytes-in-flight", str(2 * size))
    body = json.dumps({"rollout_id": "unknown", "logs": ["x" * size]}).encode()

    def posted(endpoint: str) -> int:
        while True:
            reply = request(endpoint, "POST", "/rollout", body)
            if reply.status != 503:
                return reply.status

    with started(*ARGUMENTS, *limits, "--json") as process:
        said = json.loads(process.read_line())
        before = peak_memory(said["pid"])
        with ThreadPoolExecutor(clients) as pool:
            assert set(pool.map(posted, [said["endpoint"]] * clients)) == {200}
        assert peak_memory(said["pid"]) - before < 12 * size


def peak_memory(pid: int) -> int:
    """The most memory that a process had so far, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
