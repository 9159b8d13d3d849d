"""Faults of the user or the environment: one line of explanation, exit code 2, no traceback."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from broker import Task, Trainer
from broker.connections import open_transport
from broker.local_server.embedded import EmbeddedServer
from broker.protocol import keys
from tests.child import read_by_head
from tests.conformance.cli.commands import RUN
from tests.lossy_proxy import ScriptedServer

ON_A_RUN: Sequence[Sequence[str]] = (
    ("status",),
    ("explain",),
    ("audit",),
    ("audit", "--repair"),
    ("verify",),
    ("tail", "--no-follow"),
    ("dead",),
    ("dead", "show", "t"),
    ("dead", "retry", "t"),
    ("dead", "retry", "--all"),
    ("pause",),
    ("resume",),
    ("configure", "max_attempts=4"),
    ("prioritise", "t=1"),
    ("finish",),
    ("cancel", "t"),
    ("purge", "--yes"),
)


@pytest.mark.parametrize("command", ON_A_RUN, ids=" ".join)
def test_an_unknown_run_is_named(command: Sequence[str], broker: Any, url: str) -> None:
    result = broker(command[0], "no-such-run", *command[1:])
    assert (result.code, result.out) == (2, "")
    assert "no-such-run" in result.err
    assert "NORUN" in result.err
    with open_transport(url) as transport:
        assert transport.command("DBSIZE") == 0, "a refused command left something behind"


@pytest.mark.parametrize("name", ["", "a{b}", "two words", "x" * 201])
def test_a_name_that_cannot_be_is_refused(name: str, broker: Any) -> None:
    result = broker("status", name)
    assert (result.code, result.out) == (2, "")
    assert "NAME" in result.err


def test_a_state_of_another_schema_is_refused(broker: Any, url: str, trainer: Trainer) -> None:
    with open_transport(url) as transport:
        transport.command("HSET", keys.state(RUN), "schema", "99")
    result = broker("status", RUN)
    assert result.code == 2
    assert "99" in result.err
    listed = broker("runs")
    assert listed.code == 0
    assert "SCHEMA" in listed.err


def test_a_server_that_is_not_there(broker: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}"
    result = broker("runs", "--url", url)
    assert (result.code, result.out) == (2, "")
    assert url in result.err
    assert "BROKER_URL" in result.err


def test_a_server_that_wants_a_password(broker: Any) -> None:
    server = EmbeddedServer(port=0, settings={"requirepass": "secret"})
    try:
        refused = broker("runs", "--url", server.url)
        assert refused.code == 2
        assert "AUTH" in refused.err
        wrong = broker("runs", "--url", server.url.replace("//", "//:mistaken@"))
        assert wrong.code == 2
        assert "mistaken" not in wrong.err, "the message tells the password"
        assert broker("runs", "--url", server.url.replace("//", "//:secret@")).code == 0
    finally:
        server.stop()


def test_a_server_that_is_something_else(broker: Any) -> None:
    with ScriptedServer(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as other:
        result = broker("runs", "--url", other.url)
    assert (result.code, result.out) == (2, "")


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://localhost", "redis://h:port", "redis://h/x"])
def test_a_url_that_cannot_be_understood(url: str, broker: Any) -> None:
    result = broker("runs", "--url", url)
    assert result.code == 2
    assert "BADURL" in result.err


def test_a_database_that_the_server_does_not_have(broker: Any, url: str) -> None:
    result = broker("runs", "--url", f"{url}/9999")
    assert (result.code, result.out) == (2, "")
    assert "9999: the server has no database of that number" in result.err
    assert "BADURL" in result.err


def test_a_reader_that_leaves_ends_it_quietly(trainer: Trainer) -> None:
    trainer.enqueue(Task(id=f"more/{i}") for i in range(3000))
    result = read_by_head("-m", "broker", "tail", RUN, "--from", "start")
    assert (result.code, len(result.out.splitlines()), result.err) == (141, 1, "")
