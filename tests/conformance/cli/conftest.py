from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker
from broker.cli.main import main
from broker.connections import open_transport
from broker.local_server.embedded import EmbeddedServer
from tests.child import Ended
from tests.conformance.cli.commands import RUN


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedServer]:
    server = EmbeddedServer(port=0)
    yield server
    server.stop()


@pytest.fixture
def url(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    with open_transport(server.url) as transport:
        transport.command("FLUSHALL")
    monkeypatch.setenv("BROKER_URL", server.url)
    return server.url


@pytest.fixture
def trainer(url: str) -> Generator[Trainer]:
    """A run with five tasks t0 to t4 of two samples each; a batch has two tasks, and two may be running at once."""
    config = RunConfig(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=2)
    with Trainer(url, run=RUN, config=config) as trainer:
        trainer.enqueue(Task(id=f"t{i}", payload=i, samples=2) for i in range(5))
        yield trainer


@pytest.fixture
def worker(url: str, trainer: Trainer) -> Generator[Worker]:
    with Worker(url, run=RUN, name="w1", lease_s=60.0) as worker:
        yield worker


@pytest.fixture
def broker(url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `broker ARGUMENTS` in this process."""

    def run(*argv: str) -> Ended:
        code = main(argv)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    return run
