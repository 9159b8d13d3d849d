"""A forked child has copies of its parent's asyncio clients: every call of these copies is refused."""

import textwrap

import pytest

from tests.child import finished
from tests.conformance.lab import Lab

#: What parent and child share.
_PREPARE = """
import asyncio, gc, os, signal, sys, traceback
from contextlib import contextmanager
from broker import BadArgument, RunConfig, Task
from broker.aio import Trainer, Worker
from broker.trainer import pulse
from tests.conformance.async_calls import calls_of

def all_are_refused(trainer, worker, attempt):
    for client, calls in calls_of(trainer, worker, attempt).items():
        for name, call in calls.items():
            async def made():
                return await asyncio.wait_for(call(), 5)
            try:
                asyncio.run(made())
            except BadArgument as error:
                assert "was opened before a fork" in str(error), (name, error)
            else:
                raise AssertionError(f"{name} of a forked child was not refused")

pulse.BEAT_EVERY_S = 3600  # on a busy machine its first connection would come in between

async def connections(client):
    info = await client._transport.command("INFO", "stats")
    return [line for line in info.splitlines() if line.startswith(b"total_connections_received")]

@contextmanager
def a_child():
    # What a forked child does; it ends there, whatever happens.
    signal.alarm(60)
    try:
        yield
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(7)

def ended(child):
    assert os.waitpid(child, 0)[1] == 7 << 8
"""


def _in_a_process(lab: Lab, body: str) -> None:
    """Runs the body of a coroutine in a process that may fork; it has a trainer, a worker and what the worker holds."""
    if lab.url.startswith("fakeredis"):
        pytest.skip("its server is in one process")
    lab.go_live()
    code = f"""{_PREPARE}
async def main():
    async with Trainer({lab.url!r}, {lab.run!r}, RunConfig(consumer_batch_size=1, max_staleness=None, max_concurrent_rollouts=9)) as trainer:
        await trainer.enqueue([Task(id="t0")])
        async with Worker({lab.url!r}, {lab.run!r}, heartbeat=False) as worker:
            (attempt,) = await worker.claim()
{textwrap.indent(textwrap.dedent(body), " " * 12)}
asyncio.run(main())
"""
    # Python 3.12 and later warn of a fork beside threads.
    done = finished("-W", "ignore::DeprecationWarning", "-c", code)
    assert (done.code, done.err) == (0, "")


def test_no_call_is_made_by_a_forked_child(lab: Lab):
    """The child would use the parent's call numbers: the parent's next call would get the answer of the child's call."""
    _in_a_process(
        lab,
        """
        if not (child := os.fork()):
            with a_child():
                all_are_refused(trainer, worker, attempt)
                await trainer.close()
                await worker.close()
        ended(child)
        assert (await trainer.enqueue([Task(id="t1")])).added == 1
        assert (await trainer.stats()).pending == 1
        assert (await worker.submit(attempt, b"x")).accepted
        assert [rollout.task for rollout in await trainer.next_batch()] == ["t0"]
        assert await trainer.advance() == 1
        """,
    )


def test_a_forked_child_waits_for_no_lock_of_its_parents(lab: Lab):
    """Calls of the parent are under way while it forks: in the child, nobody would ever end them."""
    _in_a_process(
        lab,
        """
        calls = [asyncio.create_task(call) for call in (
            trainer.next_batch(), worker.claim(1, None), worker.claim(1, None), worker.submit(attempt, b"x"),
            *(trainer.enqueue([Task(id=f"u{i}")]) for i in range(8)),
        )]
        await asyncio.sleep(0)
        if not (child := os.fork()):
            with a_child():
                all_are_refused(trainer, worker, attempt)
        ended(child)
        batch, _, _, submitted, *added = await asyncio.wait_for(asyncio.gather(*calls), 30)
        assert [rollout.task for rollout in batch] == ["t0"] and submitted.accepted
        assert [each.added for each in added] == [1] * 8
        """,
    )


def test_a_forked_child_waits_for_no_lock_that_a_thread_of_its_parent_holds(lab: Lab):
    _in_a_process(
        lab,
        """
        from tests.held_locks import all_locks_held
        with all_locks_held() as held:
            if not (child := os.fork()):
                with a_child():
                    assert held > 3, held
                    all_are_refused(trainer, worker, attempt)
                    assert worker.held == [attempt]
                    worker.stop()
                    worker.drain()
                    await trainer.close()
                    await worker.close()
            ended(child)
        assert (await worker.submit(attempt, b"x")).accepted
        """,
    )


def test_a_forked_child_that_ends_leaves_its_parents_connections_alone(lab: Lab):
    """It ends as a program does, and collects all that it has a copy of: both processes watch the same sockets."""
    _in_a_process(
        lab,
        """
        waiting = asyncio.create_task(trainer.next_batch())
        while b"blocked_clients:1" not in await worker._transport.command("INFO", "clients"):
            pass
        before = await connections(trainer), await connections(worker)
        for leaves in range(3):
            if not (child := os.fork()):
                with a_child():
                    try:
                        await trainer.enqueue([Task(id="child")])
                    except BadArgument as error:
                        del error
                    if leaves == 1:
                        await trainer.close()
                        await worker.close()
                    elif leaves == 2:  # it drops its copies
                        del trainer, worker, waiting
                        gc.collect()
            ended(child)
        assert before == (await connections(trainer), await connections(worker))
        assert (await worker.submit(attempt, b"x")).accepted
        assert [rollout.task for rollout in await asyncio.wait_for(waiting, 10)] == ["t0"]
        assert before == (await connections(trainer), await connections(worker))
        """,
    )


def test_a_client_that_was_made_but_not_opened_before_a_fork_is_the_childs_own(lab: Lab):
    _in_a_process(
        lab,
        f"""
        other = Worker({lab.url!r}, {lab.run!r}, heartbeat=False)
        if not (child := os.fork()):
            with a_child():
                async def works():
                    async with other:
                        return await other.claim()
                assert asyncio.run(works()) == []
        ended(child)
        async with other:
            assert await other.claim() == []
        """,
    )
