"""Who may not wait long for the server asks through a thread, and gets a late answer once it asks again."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from broker.integrations.areal.asker import Asker
from broker.protocol.admission import Standing
from tests.threads import InThread

MOMENT_S, PATIENCE_S = 0.01, 30.0


@dataclass
class Server:
    """Answers once it may, and grants or refuses."""

    grants: bool = True
    fails: bool = False
    asked: int = 0
    may_answer: threading.Event = field(default_factory=threading.Event)
    late: threading.Event = field(default_factory=threading.Event)
    promises: set[int] = field(default_factory=set[int])

    def tell(self, version: int, *, asks: bool, thread: int) -> Standing | None:
        self.asked += 1
        assert self.may_answer.wait(PATIENCE_S)
        if self.fails:
            raise RuntimeError("broken")
        if self.grants and asks:
            self.promises.add(thread)
        return Standing(self.grants and asks, self.asked, 0, 0, 0, 0, 0, version)


@contextmanager
def asker(server: Server) -> Generator[Asker]:
    made = Asker(server.tell, server.promises.__contains__, server.late.set)
    yield made
    server.may_answer.set()
    made.stop()
    made.join()


def missed(asker: Asker, server: Server) -> None:
    """Asks, does not get the answer in time, and lets it come then."""
    assert asker.ask(7, asks=True, within_s=MOMENT_S) is None
    assert asker.ask(7, asks=True, within_s=PATIENCE_S) is None  # it is outstanding: nobody waits
    server.may_answer.set()
    assert server.late.wait(PATIENCE_S)


def test_an_answer_in_time_is_returned_and_nothing_is_late() -> None:
    server = Server()
    server.may_answer.set()
    with asker(server) as made:
        answers = [made.ask(7, asks=True, within_s=PATIENCE_S) for _ in range(2)]
    assert [answer and answer.capacity for answer in answers] == [1, 2]
    assert not server.late.is_set()


def test_a_promise_that_came_late_is_used_without_asking_again() -> None:
    server = Server()
    with asker(server) as made:
        missed(made, server)
        answer = made.ask(7, asks=True, within_s=PATIENCE_S)
        assert answer is not None
        assert answer.granted
        assert server.asked == 1
        made.ask(7, asks=True, within_s=PATIENCE_S)
        assert server.asked == 2


def test_a_promise_that_has_lapsed_meanwhile_is_asked_for_again() -> None:
    server = Server()
    with asker(server) as made:
        missed(made, server)
        server.promises.clear()
        assert made.ask(7, asks=True, within_s=PATIENCE_S) is not None
        assert server.asked == 2


def test_a_refusal_that_came_late_is_not_believed() -> None:
    server = Server(grants=False)
    with asker(server) as made:
        missed(made, server)
        server.grants = True
        answer = made.ask(7, asks=True, within_s=PATIENCE_S)
        assert answer is not None
        assert answer.granted


def test_a_promise_of_another_thread_is_not_used() -> None:
    server = Server()
    with asker(server) as made:
        missed(made, server)
        InThread(lambda: made.ask(7, asks=True, within_s=PATIENCE_S)).result()
        assert server.asked == 2


def test_a_failure_is_no_answer_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(fails=True)
    server.may_answer.set()
    with asker(server) as made:
        assert made.ask(7, asks=True, within_s=PATIENCE_S) is None
        server.fails = False
        assert made.ask(7, asks=True, within_s=PATIENCE_S) is not None
    assert "asking for capacity failed" in caplog.text


def test_who_waits_when_it_stops_gets_no_answer() -> None:
    server = Server()
    with asker(server) as made:
        waiting = InThread(lambda: made.ask(7, asks=True, within_s=PATIENCE_S))
        while not server.asked:
            threading.Event().wait(MOMENT_S)
        made.stop()
        assert waiting.result() is None
        assert made.ask(7, asks=True, within_s=PATIENCE_S) is None
        server.may_answer.set()
