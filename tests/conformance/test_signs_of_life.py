"""A trainer gives signs of life from a thread; `broker health` reads them, and those of workers."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Generator

import pytest

from broker import RunConfig, Trainer, Worker, aio
from broker.cli.main import main
from broker.connections.sync import run_blocking
from broker.errors import Fenced
from broker.inspection.explanation import Explanation, explain
from broker.inspection.health import trainer_health, worker_health
from broker.inspection.timeline import Timeline
from broker.protocol import trainer as trainer_calls
from broker.trainer import pulse
from broker.web.snapshot import snapshot
from tests.conformance.lab import Lab, tasks
from tests.servers import ServerUnderTest, real_kinds
from tests.waiting import wait_until


def silent(lab: Lab) -> float | None:
    return lab.trainer(attach=True).stats().trainer_silent_s


def test_a_trainer_that_opens_the_run_is_alive(lab: Lab):
    trainer = lab.trainer()
    lab.pass_ms(7_000)
    assert trainer.stats().trainer_silent_s == 7
    lab.trainer(reopen=True)
    assert silent(lab) == 0


def test_a_sign_of_life_is_of_the_trainer_that_holds_the_run(lab: Lab):
    raw = lab.raw_trainer()
    lab.pass_ms(9_000)
    assert lab.call(trainer_calls.beat, raw.token) == lab.now
    assert silent(lab) == 0
    lab.pass_ms(1_000)
    lab.trainer(reopen=True)
    lab.pass_ms(5_000)
    with pytest.raises(Fenced):
        lab.call(trainer_calls.beat, raw.token)
    assert silent(lab) == 5


def test_a_run_of_an_earlier_release_has_no_sign_yet(lab: Lab):
    lab.trainer()
    lab.command("HDEL", lab.key("state"), "trainer_at")
    assert silent(lab) is None
    found = trainer_health(lab.trainer(attach=True).stats())
    assert (found.ok, found.silent_s) == (False, None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_EVERY_S", 0.02)


def beating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "broker-pulse"]


def test_a_trainer_that_computes_gives_signs_of_life(lab: Lab, quick: None):
    """It makes no call of its own meanwhile."""
    trainer = lab.trainer(consumer_batch_size=1)
    rank = lab.trainer(attach=True)
    lab.pass_ms(1_800_000)
    wait_until(lambda: rank.stats().trainer_silent_s == 0, "the thread gave one")
    trainer.close()
    lab.pass_ms(5_000)
    assert rank.stats().trainer_silent_s == 5


def test_a_trainer_for_asyncio_that_blocks_its_loop_does_so_too(lab: Lab, quick: None):
    async def train() -> None:
        async with aio.Trainer(lab.url, lab.run, lab.config(), clock=lab.clock):
            rank = lab.trainer(attach=True)
            lab.pass_ms(1_800_000)
            wait_until(lambda: rank.stats().trainer_silent_s == 0, "the thread gave one")

    asyncio.run(train())


def test_a_trainer_that_nobody_has_any_more_gives_none(lab: Lab, quick: None):
    trainer = Trainer(lab.url, lab.run, lab.config(), clock=lab.clock)
    assert beating()
    trainer._transport.close()
    del trainer
    gc.collect()
    wait_until(lambda: not beating(), "the thread ends")


def test_a_recovery_does_not_end_the_signs(lab: Lab, quick: None):
    trainer = lab.trainer()
    trainer.recover()
    lab.pass_ms(60_000)
    wait_until(lambda: trainer.stats().trainer_silent_s == 0, "given under the new epoch")


def test_ranks_that_read_give_none(lab: Lab, quick: None):
    lab.trainer().close()
    wait_until(lambda: not beating(), "the trainer is closed")
    lab.trainer(attach=True)
    assert not beating()


def test_a_worker_is_alive_for_its_lease_after_each_sign(lab: Lab):
    lab.trainer().enqueue(tasks(3))
    worker = lab.worker(name="w1", lease_s=30.0)
    lab.worker(name="w10", lease_s=300.0)
    worker.claim(1)

    def explained() -> Explanation:
        return run_blocking(explain(lab.transport.io, lab.run, lab.now, 50, "w1"))

    lab.pass_ms(20_000)
    assert (worker_health(explained(), "w1").ok, worker_health(explained(), "w1").silent_s) == (True, 20)
    assert not worker_health(explained(), "w1", 10.0).ok
    worker.renew()
    assert worker_health(explained(), "w1").silent_s == 0
    lab.pass_ms(31_000)
    found = worker_health(explained(), "w1")
    assert (found.ok, found.silent_s) == (False, 31)
    assert found.sentence == "worker w1 gave its last sign of life 31 s ago, and holds 1 slot; 30 s are allowed"
    assert {row.session.partition("~")[0] for row in explained().sessions} == {"w1"}
    # On the page too, where its last claim is older.
    (shown,) = snapshot(explained(), Timeline())["workers"]["rows"]
    assert (shown["worker"], shown["silent_s"]) == ("w1", 31)
    worker.close()
    assert worker_health(explained(), "w1").sentence.startswith("worker w1 is not connected")


@pytest.fixture(params=real_kinds(), ids=str)
def live(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[ServerUnderTest]:
    with ServerUnderTest(request.param) as server:
        monkeypatch.setenv("BROKER_URL", server.url)
        yield server


def test_the_command_answers_probes(live: ServerUnderTest, capsys: pytest.CaptureFixture[str]):
    with Trainer(run="r", config=RunConfig(consumer_batch_size=1)) as trainer:
        assert main(["health", "r", "--trainer"]) == 0
        assert "its last sign of life" in capsys.readouterr().out
        assert main(["health", "r", "--worker", "w"]) == 1
        with Worker(run="r", name="w"):
            assert main(["health", "r", "--worker", "w"]) == 0
            assert main(["health", "r", "--worker", "w", "--json"]) == 0
        assert main(["health", "r", "--worker", "w"]) == 1
        wait_until(lambda: main(["health", "r", "--trainer", "--max-silence", "0.2"]) == 1, "it is silent for so long")
        trainer.finish()
    assert main(["health", "r", "--trainer", "--max-silence", "0.001"]) == 0, "a finished run needs none"
    assert main(["health", "none", "--trainer"]) == 2
    assert main(["health", "r"]) == 2
    live.stop()
    assert main(["health", "r", "--trainer"]) == 2
    assert main(["health", "r", "--trainer", "--outage-ok"]) == 0
    live.start()
