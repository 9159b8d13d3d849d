"""How long the calls to a server go on, on a clock of the test's own."""

import time

import pytest

from broker.connections.failures import SILENT, Failure
from broker.connections.retrying import Patience, silence_s
from broker.connections.sync import run_blocking
from broker.errors import ServerUnavailable


class Silent:
    """A server of which each try takes some seconds and fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, try_s: float, *, moved: bool = False) -> None:
        self.now, self.tries, self._try_s, self._moved = 1000.0, 0, try_s, moved
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    async def once(self, until: float = 0.0) -> None:
        self.tries += 1
        self.now += self._try_s
        raise Failure(SILENT, "no answer", moved=self._moved)

    def note(self, failure: Failure) -> None: ...

    async def pause(self, seconds: float) -> None:
        self.now += seconds


def given_up(server: Silent, retry_for_s: float, *, first_outside: bool) -> ServerUnavailable:
    patience, began = Patience("redis://h", retry_for_s, 10.0, server.pause, server.note), server.now
    with pytest.raises(ServerUnavailable) as caught:
        if first_outside:
            with pytest.raises(Failure) as first:
                run_blocking(server.once())
            run_blocking(patience.persist(server.once, first.value, began))
        else:
            run_blocking(patience.persist(server.once))
    assert caught.value.fields["seconds"] == pytest.approx(server.now - began, abs=0.1), "not what it cost"
    return caught.value


@pytest.mark.parametrize("first_outside", [False, True])
@pytest.mark.parametrize(("try_s", "retry_for_s", "tries"), [(10.0, 3.0, 1), (10.0, 30.0, 3), (10.0, 25.0, 3)])
def test_the_time_of_the_first_try_counts(
    try_s: float, retry_for_s: float, tries: int, first_outside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Silent(monkeypatch, try_s)
    given_up(server, retry_for_s, first_outside=first_outside)
    assert server.tries == tries


def test_a_failure_at_once_is_tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Silent(monkeypatch, 0.0)
    given_up(server, 0.005, first_outside=False)
    assert server.tries == 2


def test_a_long_transfer_that_breaks_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Silent(monkeypatch, 60.0, moved=True)
    with pytest.raises(ServerUnavailable):
        run_blocking(Patience("redis://h", 30.0, 10.0, server.pause, server.note).persist(server.once))
    assert server.tries == 2


def test_silence_that_took_longer_than_the_patience_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several silent servers in turns, say, of which none moved a byte."""
    server = Silent(monkeypatch, 60.0)
    given_up(server, 30.0, first_outside=False)
    assert server.tries == 1


def test_a_try_is_told_until_when_it_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    server, told = Silent(monkeypatch, 10.0), set[float]()

    async def once(until: float) -> None:
        told.add(until - 1000.0)
        await server.once()

    with pytest.raises(ServerUnavailable):
        run_blocking(Patience("redis://h", 25.0, 10.0, server.pause, server.note).persist(once))
    assert told == {25.0}
    assert (silence_s(10.0, 25.0), silence_s(10.0, 5.0), silence_s(10.0, 0.0), silence_s(0.2, 0.0)) == (10, 5, 1, 0.2)
