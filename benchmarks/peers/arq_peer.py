"""arq: a polling worker (once a millisecond, instead of arq's default of twice a second), 32 jobs in flight."""

from __future__ import annotations

from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from runner import RESULT, mark, script, url

PACKAGES = ["arq", "hiredis"]


async def noop(_: Any, number: int) -> str:
    """The task."""
    mark(number)
    return RESULT


class WorkerSettings:
    """The settings that the `arq` command reads."""

    functions: ClassVar[list[Any]] = [noop]
    redis_settings = RedisSettings.from_dsn(url())
    max_jobs = 32
    poll_delay = 0.001


def workers(processes: int) -> list[list[str]]:
    """Each its own process."""
    return [[script("arq"), "arq_peer.WorkerSettings"]] * processes


async def start() -> Any:
    """The pool of connections of arq."""
    return await create_pool(WorkerSettings.redis_settings)


async def send(pool: Any, number: int) -> Any:
    """Enqueues a job; arq has no call for many."""
    return await pool.enqueue_job("noop", number)


async def ask(pool: Any, number: int) -> Any:
    """Waits for the result; arq polls, here once a millisecond."""
    return await (await send(pool, number)).result(timeout=30, poll_delay=0.001)
