"""How long clients try to reach a server that is away is the caller's choice."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker import RunConfig, Trainer, Worker, aio
from broker.errors import BadArgument, ServerUnavailable
from broker.operator import Operator

#: Nobody listens there.
AWAY = "redis://127.0.0.1:1"


def aio_trainer(**times: float) -> None:
    """Opens a trainer for asyncio."""
    asyncio.run(_opened(lambda: aio.Trainer(AWAY, "r", RunConfig(consumer_batch_size=1), **times)))


def aio_worker(**times: float) -> None:
    """Opens a worker for asyncio."""
    asyncio.run(_opened(lambda: aio.Worker(AWAY, "r", **times)))


async def _opened(make: Callable[[], Any]) -> None:
    await make().open()


OPENED = pytest.mark.parametrize(
    "opened",
    [
        lambda **times: Trainer(AWAY, "r", RunConfig(consumer_batch_size=1), **times),
        lambda **times: Worker(AWAY, "r", **times),
        lambda **times: Operator(AWAY, **times).stats("r"),
        aio_trainer,
        aio_worker,
    ],
    ids=["trainer", "worker", "operator", "aio trainer", "aio worker"],
)


@OPENED
def test_a_client_gives_up_after_the_time_that_it_was_given(opened: Callable[..., Any]):
    with pytest.raises(ServerUnavailable) as caught:
        opened(retry_for_s=0.1, timeout_s=5)
    assert caught.value.fields["seconds"] < 5


@OPENED
@pytest.mark.parametrize("times", [{"timeout_s": 0}, {"timeout_s": float("inf")}, {"retry_for_s": -1}])
def test_a_time_is_a_number_of_seconds_in_its_range(opened: Callable[..., Any], times: dict[str, float]):
    with pytest.raises(BadArgument, match=next(iter(times))):
        opened(**times)
