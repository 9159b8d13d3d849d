"""How long the calls to a server go on, on a clock of the test's own."""

import time

import pytest

from broker.connections.link import run_blocking
from broker.connections.retrying import Again, Patience
from broker.errors import ServerUnavailable


class Silent:
    """A server of which each try takes some seconds and fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, try_s: float) -> None:
        self.now, self.tries, self._try_s = 1000.0, 0, try_s
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    async def once(self) -> None:
        self.tries += 1
        self.now += self._try_s
        raise Again("no answer")

    async def pause(self, seconds: float) -> None:
        self.now += seconds


def given_up(server: Silent, retry_for_s: float, *, first_outside: bool) -> ServerUnavailable:
    patience, began = Patience("redis://h", retry_for_s, 10.0, server.pause), server.now
    with pytest.raises(ServerUnavailable) as caught:
        if first_outside:
            with pytest.raises(Again) as first:
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
    server = Silent(monkeypatch, 60.0)
    with pytest.raises(ServerUnavailable):
        run_blocking(Patience("redis://h", 30.0, 10.0, server.pause).persist(server.once))
    assert server.tries == 2
