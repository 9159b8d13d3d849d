"""Real worker processes that are killed, frozen and stopped."""

import signal
from contextlib import ExitStack

import pytest

from broker import RunConfig, Task, Trainer
from broker.errors import WaitTimeout
from tests.child import Ended, finished
from tests.conformance.lab import Lab, names_of, tasks
from tests.processes.actors import Actor
from tests.servers import ServerUnderTest
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


def trained(trainer: Trainer, count: int) -> list[str]:
    """Steps of training until so many tasks were consumed; their names."""
    seen: list[str] = []
    while len(seen) < count:
        seen += names_of(trainer.next_batch(timeout=30))
        trainer.advance()
    return seen


def test_the_tasks_of_a_killed_worker_are_done_by_another_exactly_once(live: Lab):
    trainer = live.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=99, lease_ms=700)
    trainer.enqueue(Task(id=f"t{i}", samples=2) for i in range(6))
    with ExitStack() as stack:
        victim = stack.enter_context(Actor("hold", live.url, live.run, n=5))
        (held,) = victim.wait_for("held")
        other = stack.enter_context(Actor("work", live.url, live.run))
        other.wait_for("ready")
        victim.send(signal.SIGKILL)
        assert victim.end().code == -signal.SIGKILL
        assert sorted(trained(trainer, 6)) == [f"t{i}" for i in range(6)]
        other.send(signal.SIGTERM)
        other.end()
    history = live.history()
    accepted = {attempt for attempts in history.results.values() for attempt in attempts}
    assert accepted.isdisjoint(held["attempts"])
    assert [len(attempts) for attempts in history.results.values()] == [2] * 6
    assert trainer.stats().totals["expired"] == len(held["attempts"])


def test_a_frozen_worker_that_comes_back_late_is_refused_and_works_on(live: Lab):
    """Mutants: no_compare_and_set."""
    trainer = live.trainer(consumer_batch_size=1, max_staleness=5, max_concurrent_rollouts=99)
    trainer.enqueue(Task(id="t"))
    with Actor("late", live.url, live.run, lease_s=0.5) as zombie:
        (held,) = zombie.wait_for("held")
        zombie.send(signal.SIGSTOP)
        worker = live.worker(name="other", heartbeat=True)
        (attempt,) = worker.claim(1, timeout=20)
        assert (attempt.task, attempt.tries) == ("t", 1)
        zombie.send(signal.SIGUSR1)
        zombie.send(signal.SIGCONT)
        (late,) = zombie.wait_for("answer")
        assert (late["answer"], late["by"]) == ("superseded", "other")
        worker.submit(attempt, "in time")
        (rollout,) = trainer.next_batch(timeout=20)
        assert rollout.results == ["in time"]
        trainer.advance()
        trainer.enqueue(Task(id="u"))
        # Alive again, it gets new work: its session is a new one.
        assert zombie.wait_for("answer", 2)[1]["answer"] == "accepted"
        assert trainer.next_batch(timeout=20)[0].results == ["good"]
        assert zombie.end().code == 0
    assert live.history().late == [(held["attempts"][0], "superseded")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("kind", ["hold", "loop", "run", "aio"])
def test_a_worker_that_is_told_to_stop_gives_back_at_once(live: Lab, kind: str, number: signal.Signals):
    """Nobody waits for a lease: it is an hour long."""
    trainer = live.trainer(consumer_batch_size=2, lease_ms=3_600_000)
    trainer.enqueue(tasks(2))
    with Actor(kind, live.url, live.run) as worker:
        held = 2 if kind in {"run", "aio"} else 1
        worker.wait_for("held" if kind == "hold" else "working", 1 if kind == "hold" else held)
        wait_until(lambda: trainer.stats().running == held, "it holds them")
        worker.send(number)
        code = worker.end().code
        assert code in {0, 128 + number}, worker.said
        stats = trainer.stats()
        assert (stats.running, stats.pending, stats.sessions) == (0, 2, 0)
        if kind == "aio":
            assert len(worker.heard("cancelled")) == 2
    whys = {words[1] for event, words in live.transitions() if event == "ended"}
    assert whys == {"released"}
    again = live.worker()
    assert [attempt.tries for attempt in again.claim(2)] == [0, 0]


@pytest.mark.parametrize("way", ["claim", "loop", "run"])
def test_a_worker_that_lost_what_sigterm_raised_ends_with_its_next_claim(live: Lab, way: str) -> None:
    """Destructors, and imports of some modules in C, lose the exception; the worker must not wait for ever."""
    trainer = live.trainer()
    with Actor("deaf", live.url, live.run, way=way) as worker:
        code = worker.end().code
        assert (code, worker.said) == (143, [{"is": "lost", "error": "SystemExit(143)"}] * 2)
    assert trainer.stats().sessions == 0


_PACKING = """
import signal
from broker.connections.connection import packed

class Interrupted(Exception):
    pass

def interrupt(number, frame):
    raise Interrupted

command = ("FCALL", *range(1000, 1015))
signal.signal(signal.SIGALRM, interrupt)
count = 0
while count < 3000:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 1.0)
        while True:
            packed([command] * 50)
    except Interrupted:
        count += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(count)
"""


def test_a_signal_while_a_command_is_packed_is_an_exception() -> None:
    """The packer of hiredis looks for signals when it writes a number, and crashes when their handler raises."""
    assert finished("-X", "faulthandler", "-c", _PACKING, within_s=120) == Ended(0, "3000\n", "")


def test_a_worker_that_is_interrupted_anywhere_goes_on_and_leaves_nothing(live: Lab) -> None:
    """250 workers, one after the other in one process, each broken off by a signal somewhere in its calls."""
    trainer = live.trainer(consumer_batch_size=8, max_attempts=10_000, events_maxlen=100_000)
    trainer.enqueue(tasks(8))
    with Actor("interrupted", live.url, live.run, times=250) as actor:
        code = actor.end().code
        assert (code, [line["is"] for line in actor.said]) == (0, ["ended"])
    stats = trainer.stats()
    assert (stats.pending, stats.running, stats.sessions) == (8, 0, 0)


def test_a_trainer_that_is_interrupted_anywhere_trains_on_each_task_once(live: Lab) -> None:
    """It goes on with its loop: an advance that was broken off is made once, and its batch is not trained on again."""
    live.trainer(consumer_batch_size=2, max_staleness=1, max_concurrent_rollouts=8).enqueue(tasks(400))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Actor("work", live.url, live.run))
        trainer = stack.enter_context(Actor("interrupted_trainer", live.url, live.run, seed=1))
        assert trainer.end().code == 0
    (said,) = trainer.said
    assert sorted(task for step in said["steps"] for task in step) == sorted(f"t{i}" for i in range(400))
    assert said["times"] > 10, "it was interrupted, or this shows nothing"


def test_capacity_never_exceeds_the_bound_with_8_claiming_processes(live: Lab):
    """G4, judged by a watcher while it runs and by the event log afterwards. Mutants: start_ignores_capacity."""
    bound = RunConfig(consumer_batch_size=3, max_staleness=1, max_concurrent_rollouts=5)
    trainer = live.trainer(
        consumer_batch_size=3, max_staleness=1, max_concurrent_rollouts=5, retry_backoff_ms=10, max_attempts=5
    )
    watcher = live.trainer(attach=True)
    worst = 0
    with ExitStack() as stack:
        actors = [stack.enter_context(Actor("storm", live.url, live.run, seed=seed)) for seed in range(8)]
        for actor in actors:
            actor.wait_for("ready")
        trainer.enqueue(Task(id=f"t{i}", samples=1 + i % 3, min_samples=1) for i in range(60))
        for _ in range(8):
            while True:
                stats = watcher.stats()
                worst = max(worst, stats.running)
                room = (1 + stats.version + 1) * 3
                assert stats.running <= bound.concurrency
                assert stats.accepted + stats.running <= room
                assert stats.capacity == min(5 - stats.running, room - stats.accepted - stats.running)
                try:
                    trainer.next_batch(timeout=0.01)
                    break
                except WaitTimeout:
                    continue
            trainer.advance()
        for actor in actors:
            actor.send(signal.SIGTERM)
        for actor in actors:
            assert actor.end().code == 143, actor.said
    history = live.history()
    assert history.problems == []
    assert history.most_running <= 5
    assert history.starts >= 24
    assert max(worst, history.most_running) == 5, "the bound was reached, or this shows nothing"
    assert trainer.explain().held == ()


def test_workers_and_trainers_ride_out_the_death_of_the_server(server: ServerUnderTest, run: str):
    """SIGKILL under an append-only file that is written at once: nothing acknowledged is lost, everyone goes on."""
    with ServerUnderTest(server.kind, durable=True, settings={"appendfsync": "always"}) as own, Lab(own, run) as lab:
        lab.go_live()
        trainer = lab.trainer(consumer_batch_size=4, max_staleness=1, max_concurrent_rollouts=99, lease_ms=5_000)
        trainer.enqueue(tasks(24))
        seen: list[str] = []
        with ExitStack() as stack:
            workers = [stack.enter_context(Actor("work", own.url, run)) for _ in range(2)]
            for worker in workers:
                worker.wait_for("ready")
            for step in range(6):
                if step in {1, 3}:
                    own.restart()
                batch = trainer.next_batch(timeout=30)
                assert {rollout.results[0]["task"] for rollout in batch} == set(names_of(batch))
                seen += names_of(batch)
                if step == 4:
                    own.restart()
                trainer.advance()
            for worker in workers:
                worker.send(signal.SIGTERM)
                assert worker.end().code == 143, worker.said
        assert sorted(seen) == sorted(f"t{i}" for i in range(24))
        lab.close_clients()
        lab.check()
        assert lab.history().problems == []


def test_a_trainer_that_is_killed_mid_batch_gets_the_same_batch_again(live: Lab):
    """It dies with a sealed batch in its hands; the next one, in another process, trains on that very batch."""
    trainer = live.trainer(consumer_batch_size=2, max_staleness=2, max_concurrent_rollouts=99)
    trainer.enqueue(tasks(6))
    with Actor("work", live.url, live.run) as worker, Actor("train", live.url, live.run) as victim:
        (sealed,) = victim.wait_for("sealed")
        victim.send(signal.SIGKILL)
        victim.end()
        after = live.trainer(reopen=True)
        assert (after.version, after.step_next) == (0, 1)
        batch = after.next_batch(timeout=10)
        assert [names_of(batch), [rollout.results[0]["by"] for rollout in batch]] == [sealed["tasks"], sealed["by"]]
        assert after.advance() == 1
        rest = trained(after, 4)
        worker.send(signal.SIGTERM)
        worker.end()
    assert sorted([*names_of(batch), *rest]) == [f"t{i}" for i in range(6)]
