"""`broker plan` of a run."""

from __future__ import annotations

import re
import time
from typing import Any

from broker import Trainer, Worker
from tests.conformance.cli.commands import RUN


def trained_step(trainer: Trainer, worker: Worker) -> None:
    attempts = worker.claim(4)
    time.sleep(0.03)
    for attempt in attempts:
        worker.submit(attempt, b"x")
    assert len(trainer.next_batch(timeout=10)) == 2
    time.sleep(0.02)
    trainer.advance()


def test_a_run_is_planned_as_it_has_shown_itself(broker: Any, trainer: Trainer, worker: Worker) -> None:
    trained_step(trainer, worker)
    worker.claim(1)
    planned = broker("plan", RUN, "--steps", "10", "--waste", "100%", "--bias", "100%")
    assert planned.code == 0
    assert re.search(r"batches of 2 tasks of 2 samples, a step takes 0\.0\d+ s, workers hold 4 samples", planned.out)
    assert "as 4 accepted attempts took" in planned.out
    assert len(re.findall(r"^>\*? +\w +1 +4 +requeue", planned.out, flags=re.MULTILINE)) == 1
    assert "> the run is here: max_staleness=1 staleness_limit=4 on_stale=requeue" in planned.out
    told = broker(
        "plan", RUN, "--json", "--places", "8", "--lengths", "fixed:1", "--train-s", "2", "--on-stale", "drop"
    ).json
    assert (told["run"], told["places"], told["train_s"], told["lengths"]) == (RUN, 8, 2.0, "always 1 s")
    assert [row["on_stale"] for row in told["rows"] if row["now"]] == ["requeue"]


def test_a_run_that_has_shown_nothing_is_not_planned(broker: Any, trainer: Trainer, worker: Worker) -> None:
    told = broker("plan", RUN)
    assert (told.code, told.out) == (2, "")
    assert f"run {RUN} has no accepted result yet" in told.err
    told = broker("plan", RUN, "--lengths", "fixed:1")
    assert (told.code, told.out) == (2, "")
    assert "no step that was trained. Give --train-s" in told.err
    told = broker("plan", RUN, "--lengths", "fixed:1", "--train-s", "1")
    assert "no worker that held anything. Give --places" in told.err
    assert broker("plan", "no-such-run").code == 2
