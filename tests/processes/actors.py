"""Workers and trainers as processes of their own, for tests that kill, freeze and stop them.

`python -m tests.processes.actors KIND URL RUN [OPTION=VALUE ...]`: prints a JSON line for each thing that it does; reads
nothing. Kinds: `hold` (claims and keeps), `loop`, `run`, `aio` (the three worker loops, which never finish their work), `work`
(works until it is stopped), `train` (takes a batch and keeps it), `storm` (claims, and ends attempts in every way), `late` (submits when it is woken),
`finish` (its work ends when the test says so, within its grace), `sick` (fails everything),
`interrupted` and `interrupted_trainer` (a signal breaks off their calls anywhere), `deaf` (loses what SIGTERM raises, at first).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from broker import Attempt, Trainer, Worker, aio
from broker.errors import BrokerError, Exhausted
from tests.child import Child
from tests.mutants.mutant import install_from_environment


class Actor(Child):
    """An actor's process, as the test sees it."""

    def __init__(self, kind: str, url: str, run: str, **options: Any) -> None:
        words = [f"{name}={value}" for name, value in options.items()]
        super().__init__("-m", "tests.processes.actors", kind, url, run, *words)

    @property
    def said(self) -> list[dict[str, Any]]:
        """All lines that it printed, decoded."""
        return [json.loads(line) for line in self.out]

    def wait_for(self, what: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits until it has printed `count` lines of a kind. Returns all its lines of that kind."""
        return self.wait_until(lambda: self.heard(what, count), f"it says {what!r}, {count} times")

    def heard(self, what: str, count: int = 1) -> list[dict[str, Any]]:
        """Its lines of a kind, if there are at least `count`."""
        found = [line for line in self.said if line["is"] == what]
        return found if len(found) >= count else []


def say(what: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"is": what, **fields}) + "\n")
    sys.stdout.flush()


def hold(url: str, run: str, n: str = "1", lease_s: str = "") -> None:
    """Claims and keeps, renewing its lease, until it is killed."""
    with Worker(url, run, lease_s=float(lease_s) if lease_s else None) as worker:
        attempts = worker.claim(int(n), timeout=20)
        say("held", attempts=[attempt.id for attempt in attempts])
        signal.pause()


def late(url: str, run: str, lease_s: str) -> None:
    """Claims, and submits when SIGUSR1 comes: the test freezes it in between."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    with Worker(url, run, name="zombie", lease_s=float(lease_s)) as worker:
        attempts = worker.claim(1, timeout=20)
        say("held", attempts=[attempt.id for attempt in attempts])
        signal.sigwait({signal.SIGUSR1})
        for attempt in attempts:
            answer = worker.submit(attempt, "late")
            say("answer", answer=answer.answer, by=answer.by_worker, cancelled=attempt.cancelled)
        (other,) = worker.claim(1, timeout=20)
        say("answer", answer=worker.submit(other, "good").answer, by="", cancelled=False)


def loop(url: str, run: str) -> None:
    """The loop of the README, with work that never ends."""
    with Worker(url, run) as worker:
        for attempt in worker:
            say("working", attempt=attempt.id)
            threading.Event().wait()


def run(url: str, name: str, concurrency: str = "2") -> None:
    """`worker.run`, with work that never ends."""

    def handler(attempt: Attempt) -> None:
        say("working", attempt=attempt.id)
        threading.Event().wait()

    with Worker(url, name) as worker:
        worker.run(handler, concurrency=int(concurrency))


def aio_run(url: str, run: str, concurrency: str = "2") -> None:
    """The asyncio loop, with work that never ends."""

    async def handler(attempt: Attempt) -> None:
        say("working", attempt=attempt.id)
        try:
            await asyncio.Event().wait()
        finally:
            say("cancelled", attempt=attempt.id)

    async def main() -> None:
        async with aio.Worker(url, run) as worker:
            await worker.run(handler, concurrency=int(concurrency))

    asyncio.run(main())
    say("ended")


def work(url: str, run: str, lease_s: str = "") -> None:
    """Works until it is stopped."""
    with Worker(url, run, lease_s=float(lease_s) if lease_s else None) as worker:
        say("ready")
        for attempt in worker:
            worker.submit(attempt, {"by": os.getpid(), "task": attempt.task})


def sick(url: str, run: str) -> None:
    """Fails everything, until it is stopped."""

    def fail(attempt: Attempt) -> None:
        raise RuntimeError("no engine")

    with Worker(url, run, name="sick") as worker:
        worker.run(fail)


def finish(url: str, run: str, way: str, grace_s: str) -> None:
    """Has a grace after SIGTERM; its work ends when a line of standard input comes."""
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), told.set()), daemon=True).start()
    grace = float(grace_s)

    def plain(attempt: Attempt) -> str:
        say("working", attempt=attempt.id)
        told.wait()
        return "done"

    async def handler(attempt: Attempt) -> str:
        say("working", attempt=attempt.id)
        while not told.is_set():
            await asyncio.sleep(0.01)
        return "done"

    async def main() -> None:
        async with aio.Worker(url, run, grace_s=grace) as worker:
            if way == "aio":
                await worker.run(handler, concurrency=2)
            else:
                async for attempt in worker:
                    await worker.submit(attempt, await handler(attempt))
            say("after the loop")

    if way in {"aio", "aio loop"}:
        asyncio.run(main())
    else:
        with Worker(url, run, grace_s=grace) as worker:
            if way == "run":
                worker.run(plain, concurrency=2)
            elif way == "loop":
                for attempt in worker:
                    worker.submit(attempt, plain(attempt))
            else:
                while True:
                    for attempt in worker.claim(1, timeout=None):
                        worker.submit(attempt, plain(attempt))
            say("after the loop")
    say("ended")


def storm(url: str, run: str, seed: str) -> None:
    """Claims, and ends attempts in every way, until the run is gone."""
    chance = random.Random(int(seed))
    with Worker(url, run, name=f"storm{seed}") as worker:
        say("ready")
        while True:
            attempts = worker.claim(chance.randint(1, 4), timeout=0.2)
            for attempt in attempts:
                match chance.randrange(8):
                    case 0:
                        worker.release(attempt)
                    case 1:
                        worker.fail(attempt, "boom")
                    case 2:
                        worker.reject(attempt)
                    case _:
                        worker.submit(attempt, b"x")


class Interrupted(BaseException):
    """Raised by the signal handler of this file."""


def broken_off(work: Callable[[], None], after_s: float) -> bool:
    """Calls `work`. Returns whether a signal broke the call off."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    try:
        try:
            signal.signal(signal.SIGALRM, interrupt)
            # The timer repeats, because an exception that the handler raises in a destructor is lost.
            signal.setitimer(signal.ITIMER_REAL, after_s, 0.1)
            work()
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        except Interrupted:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            return True
    except Interrupted:  # on a slow machine the timer fires again while the first exception is handled
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        return True
    return False


def interrupted(url: str, run: str, times: str) -> None:
    """Workers, one after the other, that claim and release until a signal breaks them off."""
    chance = random.Random(int(times))
    for _ in range(int(times)):
        with Worker(url, run) as worker:

            def work(worker: Worker = worker) -> None:
                while True:
                    for attempt in worker.claim(4, timeout=0.2):
                        worker.release(attempt)

            assert broken_off(work, chance.uniform(0.0002, 0.01))
    say("ended")


def interrupted_trainer(url: str, run: str, seed: str) -> None:
    """Trains on all tasks, while signals break its calls off again and again."""
    chance, trained, times = random.Random(int(seed)), dict[int, list[str]](), 0
    with Trainer(url, run) as trainer:

        def train_on_all() -> None:
            with suppress(Exhausted):
                while True:
                    batch = trainer.next_batch()
                    trained[trainer.version] = [rollout.task for rollout in batch]
                    trainer.advance()

        # Each signal comes later than the one before. Else a slow machine would never finish.
        while broken_off(train_on_all, chance.uniform(0.0002, 0.005) * (1 + times / 50)):
            times += 1
    say("trained", steps=list(trained.values()), times=times)


def deaf(url: str, run: str, way: str) -> None:
    """Gets SIGTERM in a destructor, where the exception of the signal handler is lost, and then claims."""

    class Deaf:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    sys.unraisablehook = lambda lost: say("lost", error=repr(lost.exc_value))
    with Worker(url, run) as worker:
        for _ in range(2):
            Deaf()
        if way == "claim":
            worker.claim(timeout=None)
        elif way == "loop":
            next(iter(worker))
        else:
            worker.run(str)


def train(url: str, run: str) -> None:
    """Takes a batch, says which, and never gets to train on it."""
    with Trainer(url, run) as trainer:
        batch = trainer.next_batch(timeout=30)
        say("sealed", tasks=[rollout.task for rollout in batch], by=[rollout.results[0]["by"] for rollout in batch])
        signal.pause()


KINDS: dict[str, Callable[..., None]] = {
    "hold": hold, "late": late, "loop": loop, "run": run, "aio": aio_run, "work": work, "storm": storm,
    "finish": finish, "sick": sick,
    "interrupted": interrupted, "interrupted_trainer": interrupted_trainer, "deaf": deaf, "train": train,
}  # fmt: skip


if __name__ == "__main__":
    install_from_environment()
    kind, server_url, run_name, *words = sys.argv[1:]
    try:
        KINDS[kind](server_url, run_name, **dict(word.split("=", 1) for word in words))
    except BrokerError as error:
        say("error", code=error.code)
        sys.exit(3)
    except KeyboardInterrupt:
        sys.exit(130)
