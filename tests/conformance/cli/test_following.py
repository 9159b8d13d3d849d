"""Commands that follow a run wait for a server that is away, say so, and go on."""

from __future__ import annotations

import re
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker import RunConfig, Task, Trainer
from broker.cli.options import PATIENCE_S
from broker.local_server.embedded import EmbeddedServer, free_port
from tests.child import Child
from tests.conformance.cli.commands import RUN, started


class Address:
    """A durable server that the test may stop and start again at the same port."""

    def __init__(self, data: Path) -> None:
        self._data, self._port = str(data), free_port()
        self._server: EmbeddedServer | None = None
        self.url = f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = EmbeddedServer(self._data, self._port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


@pytest.fixture
def address(tmp_path: Path) -> Generator[Address]:
    """The server, with a run."""
    made = Address(tmp_path / "data")
    made.start()
    with Trainer(made.url, RUN, RunConfig(consumer_batch_size=1)) as trainer:
        trainer.enqueue(Task(id="t"))
    yield made
    made.stop()


@contextmanager
def follows(address: Address, *command: str) -> Generator[Child]:
    """A command that follows the run and has read from the server."""
    with started(command[0], RUN, *command[1:], "--url", address.url) as process:
        assert process.read_line()
        yield process


def wait_until_it_says(process: Child, words: str) -> None:
    """Waits for a text on standard error."""
    process.wait_until(lambda: any(words in line for line in process.err), f"it says {words!r}")


#: By name: the command, and what it prints when the task `after` is there as well.
COMMANDS = {
    "status": (("status", "--watch", "--interval", "0.05"), r"^pending +2$"),
    "status in JSON": (("status", "--watch", "--interval", "0.05", "--json"), r'^{.*"pending": 2,.*}$'),
    "tail": (("tail", "--from", "start"), r" after\b"),
    "tail in JSON": (("tail", "--from", "start", "--json"), r'^{.*"after".*}$'),
}


@pytest.mark.processes
@pytest.mark.parametrize(("command", "printed"), COMMANDS.values(), ids=COMMANDS)
def test_it_waits_for_the_server_says_so_once_and_goes_on(
    command: tuple[str, ...], printed: str, address: Address
) -> None:
    with follows(address, *command) as process:
        address.stop()
        wait_until_it_says(process, "trying until it answers")
        assert not process.has_ended(PATIENCE_S + 2), "a command that does not follow has given up by then"
        address.start()
        with Trainer(address.url, RUN) as trainer:
            trainer.enqueue(Task(id="after"))
        wait_until_it_says(process, "answers again, after")
        process.wait_until(lambda: any(re.search(printed, line) for line in process.out), "it prints what is new")
        assert sum("trying until it answers" in line for line in process.err) == 1


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["status in JSON", "tail"])
def test_while_it_waits_a_signal_ends_it(name: str, number: int, code: int, address: Address) -> None:
    with follows(address, *COMMANDS[name][0]) as process:
        address.stop()
        wait_until_it_says(process, "trying until it answers")
        process.send(number)
        assert process.end().code == code
    assert len(process.err) == 1, "nothing but that it waits"


@pytest.mark.processes
@pytest.mark.parametrize("command", [("status", "--watch"), ("tail",)], ids=" ".join)
def test_a_server_that_was_never_there_is_an_error(command: tuple[str, ...], address: Address) -> None:
    address.stop()
    with started(command[0], RUN, *command[1:], "--url", address.url) as process:
        result = process.end()
    assert (result.code, result.out) == (2, "")
    assert "UNAVAILABLE" in result.err
