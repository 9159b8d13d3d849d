"""The embedded server in the foreground."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Task, Trainer, Worker
from tests.conformance.cli.commands import started
from tests.waiting import wait_until


def uses(url: str) -> None:
    """A task goes through the server."""
    with Trainer(url, run="r", config=RunConfig(consumer_batch_size=1), update=True) as trainer:
        trainer.enqueue(Task(id="t"))
        with Worker(url, run="r", name="w") as worker:
            for attempt in worker.claim(1):
                worker.submit(attempt, 1)


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_prints_its_url_and_leaves_nothing_behind(number: int, code: int) -> None:
    with started("serve", "--json", *(("--port", "0") if number == signal.SIGTERM else ())) as process:
        served = json.loads(process.read_line())
        assert served["url"].rpartition(":")[2] != "0"
        uses(served["url"])
        process.send(number)
        result = process.end()
        assert (result.code, result.err) == (code, "")
        wait_until(lambda: not Path(served["socket"]).exists(), "the server's socket is gone")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(served["url"].rpartition(":")[2])), timeout=5)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("file", "in_url"), [("broker.sock", "broker.sock"), ("a?b#c%40@.sock", "a%3Fb%23c%2540@.sock")]
)
def test_serve_on_a_unix_socket(tmp_path: Path, file: str, in_url: str) -> None:
    name = tmp_path / file
    name.symlink_to(tmp_path / "left-behind-by-a-killed-server")
    with started("serve", "--unix", str(name)) as process:
        url = process.read_line()
        assert url == f"unix://{tmp_path}/{in_url}"
        uses(url)
        process.send(signal.SIGTERM)
        assert process.end().code == 143
    assert not name.is_symlink()


@pytest.mark.processes
def test_serve_keeps_the_data_that_it_is_asked_to_keep(tmp_path: Path) -> None:
    for round_number in range(2):
        with started("serve", "--path", str(tmp_path / "data")) as process:
            url = process.read_line()
            with Trainer(url, run="r", config=RunConfig(consumer_batch_size=1)) as trainer:
                assert trainer.stats().pending == round_number
                trainer.enqueue(Task(id="kept"))
            process.send(signal.SIGTERM)
            assert process.end().code == 143


@pytest.mark.processes
def test_serve_says_why_it_cannot(tmp_path: Path, broker: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = broker("serve", "--port", str(port))
        assert result.code == 2
        assert result.err == f"broker: the server did not start: the address 127.0.0.1:{port} is in use already\n"
    (tmp_path / "a-file").touch()
    assert broker("serve", "--unix", str(tmp_path / "a-file")).code == 2
    result = broker("serve", "--path", str(tmp_path / "a-file"))
    assert (result.code, result.err) == (
        2,
        f"broker: the server did not start: {tmp_path / 'a-file'}: it is there and no directory\n",
    )
    for option in "--path", "--unix":
        result = broker("serve", option, "")
        assert result.code == 2
        assert "the path is empty" in result.err
    with started("serve", "--path", str(tmp_path / "data")) as process:
        process.read_line()
        result = broker("serve", "--path", str(tmp_path / "data"))
        assert result.code == 2
        assert "another process" in result.err
