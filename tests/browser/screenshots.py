"""Makes the pictures of docs/web.md from a run that trains: python -m tests.browser.screenshots docs/images"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from broker import Attempt, RunConfig, Task, Trainer, Worker
from broker.local_server.embedded import EmbeddedServer
from tests.browser.pages import browser
from tests.web.serving import web

RUN = "math-7b"
_TRAINED_S = 100.0
#: Replaces a text wherever it stands on a page: a traceback names the checkout, which is somebody's own.
_REPLACE = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(arguments[0], arguments[1]);
"""


def _handle(attempt: Attempt) -> Any:
    draw = random.Random(attempt.task)
    time.sleep(draw.lognormvariate(-0.6, 0.8) * (8 if draw.random() < 0.02 else 1))
    if draw.random() < 0.03:
        raise ValueError(f"the answer to {attempt.task} cannot be parsed: no \\boxed{{...}} in 2,048 tokens")
    return {"reward": draw.random()}


def _work(url: str, name: str) -> None:
    with Worker(url, RUN, name=name) as worker:
        worker.run(_handle, concurrency=4)


def main(folder: Path) -> None:
    """Trains for a while, then takes the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # the handlers fail now and then, as they should
    server = EmbeddedServer(port=0)
    config = RunConfig(consumer_batch_size=16, max_staleness=2, max_concurrent_rollouts=48)
    with Trainer(server.url, RUN, config) as trainer:
        trainer.enqueue([Task(id=f"gsm8k/{i}") for i in range(4000)])
        threads = [threading.Thread(target=_work, args=(server.url, f"gpu{k:02d}")) for k in range(6)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _TRAINED_S
        ready = threading.Event()

        def take() -> None:
            with web(server.url) as endpoint:
                for dark, name in ((False, "run.png"), (True, "run-dark.png")):
                    with browser(endpoint, size="1400,1720", dark=dark) as page:
                        page.open(f"/run?run={RUN}")
                        page.until_text("gpu00")
                        time.sleep(15)
                        page.driver.save_screenshot(str(folder / name))
                dead = trainer_dead()
                if dead:
                    with browser(endpoint, size="1200,1000") as page:
                        page.open(f"/task?run={RUN}&id={dead}")
                        page.until_text("Last error")
                        page.driver.execute_script(_REPLACE, str(Path(__file__).parents[2]), "/srv/rollout-broker")
                        page.driver.save_screenshot(str(folder / "task.png"))
            ready.set()

        def trainer_dead() -> str:
            from broker.operator import Operator

            with Operator(server.url) as operator:
                found = operator.dead(RUN, count=1)
                return found[0].id if found else ""

        taking: threading.Thread | None = None
        while not ready.is_set():
            trainer.next_batch(timeout=60)
            time.sleep(1.0)
            trainer.advance()
            if taking is None and time.monotonic() > until:
                taking = threading.Thread(target=take)
                taking.start()
        trainer.finish()
        for thread in threads:
            thread.join()
    server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
