"""Three processes that share one bound on rollouts, on a private server: `python examples/areal_processes.py [URL]`.

Each process works as AReaL's dispatcher does: it asks for capacity, starts a rollout, and reports how that ended. In a
real job the processes are AReaL's, on hosts of their own, with a `BatchTaskDispatcher`; see docs/integrations/areal.md.

Needs the extra `embedded`; with a URL, none.
"""

import multiprocessing
import os
import random
import sys
import threading
from collections.abc import Callable

from broker.integrations.areal import StalenessManager
from broker.local_server.embedded import EmbeddedServer

CONCURRENT, BATCH, STALENESS = 6, 8, 1
STEPS = 5


class Engine:
    """Knows the version of the weights, as AReaL's inference engine does."""

    def __init__(self) -> None:
        self.version = 0

    def get_version(self) -> int:
        return self.version


class Dispatcher:
    """Starts rollouts while there is capacity, and waits for capacity as AReaL's does: for ever, on a condition."""

    def __init__(self, manager: StalenessManager, enough: Callable[[], bool]) -> None:
        self._manager, self._enough = manager, enough
        self._input_cv = threading.Condition(threading.Lock())
        self.threads: list[threading.Thread] = []

    def run(self) -> None:
        while not self._enough():
            with self._input_cv:
                self._manager.on_rollout_enqueued()
                if not self._has_capacity():
                    return
            self._manager.on_rollout_submitted()
            self.threads.append(threading.Thread(target=self._rollout))
            self.threads[-1].start()

    def _has_capacity(self) -> bool:
        """Waits for capacity. Returns False if enough rollouts were accepted meanwhile."""
        while self._manager.get_capacity() <= 0:
            if self._enough():
                return False
            self._input_cv.wait()
        return True

    def _rollout(self) -> None:
        threading.Event().wait(random.uniform(0.005, 0.03))  # it generates
        if random.random() < 0.8:
            self._manager.on_rollout_accepted()
        else:
            self._manager.on_rollout_rejected()
        with self._input_cv:
            self._input_cv.notify()


def generate(url: str, run: str, rank: int) -> None:
    engine = Engine()
    # Here the trainer trains on the first rollouts of any process. Ranks that train on their own rollouts give a share.
    name = f"rank{rank}"
    with StalenessManager(engine, CONCURRENT, BATCH, STALENESS, url=url, run=run, owner=name, share=0) as manager:
        dispatcher = Dispatcher(manager, lambda: manager.get_stats().accepted >= STEPS * BATCH)
        manager.attach(dispatcher)
        dispatcher.run()
        for thread in dispatcher.threads:
            thread.join()


def main(url: str) -> None:
    engine = Engine()
    run = f"examples/areal-{os.getpid()}"  # a new one each time
    with StalenessManager(engine, CONCURRENT, BATCH, STALENESS, url=url, run=run, owner="trainer", share=0) as manager:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=generate, args=(url, run, rank)) for rank in range(3)]
        for process in processes:
            process.start()
        most_running, tick = 0, threading.Event()
        while engine.version < STEPS:
            stats = manager.get_stats()
            most_running = max(most_running, stats.running)
            if stats.accepted >= (engine.version + 1) * BATCH:
                engine.version += 1  # a training step; the dispatchers of all processes are woken
                print(f"version {engine.version}: {stats.accepted} accepted, {stats.running} running")
            tick.wait(0.01)
        for process in processes:
            process.join(timeout=30)
        print(f"at most {most_running} of {CONCURRENT} ran at once, {manager.get_stats().running} run now")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        server = EmbeddedServer()
        main(server.url)
        server.stop()
