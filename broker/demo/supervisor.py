"""Runs the demo: starts the trainer and the workers, follows the run, lets chaos loose, and cleans up.

The supervisor takes no part in the training: trainer and workers share nothing but the server, and it only looks on.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from broker.connections import Transport
from broker.demo.chaos import Chaos
from broker.demo.children import Child
from broker.demo.crew import Crew, Post
from broker.demo.display import Display
from broker.demo.interrupts import Interrupts
from broker.demo.options import LAST_STEPS, DemoOptions, Summary
from broker.demo.referee import Referee
from broker.demo.report import StepReport
from broker.demo.saved import broker_file
from broker.demo.starts import start_id
from broker.demo.view import View
from broker.errors import BrokerError, NoRun
from broker.inspection.events import Follower
from broker.inspection.stats import stats_of
from broker.protocol import anyone
from broker.recovery.checkpoint import Checkpoint
from broker.recovery.sources import exists, load_source

#: What the children run.
TRAINER: Final = "broker.demo.trainer"
WORKER: Final = "broker.demo.worker"

#: Pause between two looks, seconds.
_LOOK_S: Final = 0.1

#: When no result came and no step was made for this long, the run stands still, seconds.
_STALL_S: Final = 90.0


class Supervisor:
    """One run of the demo.

    Args:
        options: of the demo; `run` is the name to use.
        url: the server that the children connect to.
        transport: the supervisor's own connection to it.
        display: shows how it goes.
        interrupts: tells of Ctrl-C and SIGTERM.
    """

    def __init__(
        self, options: DemoOptions, url: str, transport: Transport, display: Display, interrupts: Interrupts
    ) -> None:
        info = transport.server_info()
        self._options = options
        self._url = url
        self._transport = transport
        self._display = display
        self._interrupts = interrupts
        self._referee = Referee(options.batch_size, options.max_staleness)
        self._follower = Follower(transport.command, options.run)
        self._reports: dict[int, StepReport] = {}
        self._post: Post | None = None
        self._crew: Crew | None = None
        self._completed = False
        self._began = time.monotonic()
        self._moved = self._began
        version = ".".join(str(part) for part in info.version)
        where = " (embedded)" if options.url.startswith("embedded:") else ""
        self._view = View(options.run, f"{info.kind} {version}{where}", options.steps, options.max_staleness)

    def run(self, savings: Path) -> None:
        """Trains to the last step, or until it is interrupted. All children are gone when it returns.

        Args:
            savings: directory for the trainer's checkpoints.

        Raises:
            ChildFailed: a child ended by itself.
            BrokerError: the server cannot be reached any more.
        """
        with ExitStack() as stack:
            post = self._post = Post(lambda: self._start_trainer(savings))
            stack.callback(post.dismiss)
            while not self._run_exists():
                if post.done() or self._interrupts.wait(_LOOK_S):
                    return
            crew = self._crew = Crew(self._options.workers, self._start_worker)
            stack.callback(crew.dismiss)
            chaos = Chaos(self._options, crew, post, self._referee)
            while not (self._completed or self._interrupts.wait(_LOOK_S)):
                self._completed = post.done()
                self._look(post)
                if self._stalled():
                    break
                crew.check()
                if not self._completed:
                    self._view.deeds += chaos.act(time.monotonic(), self._version)
            post.child.ask_to_leave()  # along with the workers: ending takes the time of one
        # The workers gave back what they held: that is in the log, too.
        self._judge()
        self._hold_against(savings)

    def summary(self) -> Summary:
        """What the event log says so far."""
        tally = self._referee.tally
        returns = self._returns()
        return Summary(
            steps=self._version,
            consumed=tally.consumed,
            duplicates=tally.duplicates,
            max_staleness_seen=max(tally.staleness, default=0),
            max_staleness=self._options.max_staleness,
            late_refused=tally.late.total(),
            requeued=tally.requeued,
            workers_killed=0 if self._crew is None else self._crew.killed,
            return_first=round(returns[0], 2) if returns else None,
            return_last=round(_mean(returns[-LAST_STEPS:]), 2) if returns else None,
            seconds=round(time.monotonic() - self._began, 2),
            server=self._view.server,
            trainer_kills=0 if self._post is None else self._post.killed,
            trained_exactly_once=self._referee.trained_exactly_once,
            lost=len(self._lost()),
            max_capacity_seen=self._view.max_capacity,
            max_capacity=self._options.budget,
            violations=self._violations(),
        )

    def _violations(self) -> list[str]:
        violations = self._referee.violations
        if lost := sorted(self._lost()):
            violations.append(f"{len(lost)} tasks are lost: {', '.join(lost[:5])}")
        if self._view.max_capacity > self._options.budget:
            violations.append(f"capacity was {self._view.max_capacity}, more than {self._options.budget}")
        return violations

    def _lost(self) -> set[str]:
        """Tasks that will never be trained on: of a run that is over, all that it has not trained on."""
        gone = self._referee.in_state("lost", "dead", "rejected")
        if self._completed:
            gone |= self._referee.in_state("pending", "running", "ready", "batched", "sealed")
        return gone

    # -- children --------------------------------------------------------------------------------------------------

    def _start_trainer(self, savings: Path) -> Child:
        options = self._options
        arguments = {
            "--run": options.run,
            "--steps": options.steps,
            "--samples": options.samples,
            "--max-staleness": options.max_staleness,
            "--seed": options.seed,
            "--lease-s": options.lease_s,
            "--checkpoints": savings,
        }
        words = [str(word) for pair in arguments.items() for word in pair]
        return Child("trainer", TRAINER, [*words, "--lifeline"], self._url)

    def _start_worker(self, name: str) -> Child:
        arguments = ["--run", self._options.run, "--name", name, "--lifeline"]
        return Child(name, WORKER, arguments, self._url)

    # -- looking ---------------------------------------------------------------------------------------------------

    def _run_exists(self) -> bool:
        stored = self._transport.execute([anyone.stats(self._options.run)])[0]
        if isinstance(stored, NoRun):
            return False
        if isinstance(stored, BrokerError):
            raise stored
        return True

    def _look(self, post: Post) -> None:
        for line in post.lines():
            report = StepReport.from_line(line)
            self._reports[report.step] = report
        tally = self._referee.tally
        before = tally.accepted, self._version
        self._judge()
        now = time.monotonic()
        if (tally.accepted, self._version) != before:
            self._moved = now
        self._refresh(now)
        self._display.show(self._view)

    def _stalled(self) -> bool:
        """Whether the run stands still, which is a guarantee broken: whoever is alive gets work again."""
        if time.monotonic() - self._moved < _STALL_S:
            return False
        self._referee.stalled(_STALL_S)
        return True

    def _judge(self) -> None:
        for page in self._follower.pages():
            if page.has_gap:
                self._referee.missed()
            for event in page.events:
                for kind, words in event.transitions:
                    self._referee.feed(kind, words.split(), event.id)

    def _hold_against(self, savings: Path) -> None:
        """Compares the log with the newest checkpoint."""
        path = broker_file(savings)
        if exists(path):
            made = load_source(path, self._options.run)
            assert isinstance(made, Checkpoint)
            fed = {start_id(number) for number in range(made.cursor or 0)}
            self._referee.compare(made.version, fed - made.unfinished)

    def _refresh(self, now: float) -> None:
        stored = self._transport.execute([anyone.stats(self._options.run)])[0]
        if isinstance(stored, BrokerError):
            raise stored
        stats = stats_of(self._options.run, stored)
        view, tally = self._view, self._referee.tally
        workers = self._crew.workers if self._crew else []
        view.seconds = now - self._began
        view.version, view.capacity = stats.version, stats.capacity
        view.max_capacity = max(view.max_capacity, stats.capacity)
        view.running, view.ready = stats.running, stats.ready
        view.returns = self._returns()
        view.staleness, view.late = tally.staleness, tally.late
        view.consumed, view.requeued = tally.consumed, tally.requeued
        view.workers, view.frozen = len(workers), sum(worker.frozen for worker in workers)
        view.killed = self._crew.killed if self._crew else 0
        view.trainers_killed = self._post.killed if self._post else 0
        view.violations = self._referee.violations

    @property
    def _version(self) -> int:
        """The newest one of the history that survives, by the log."""
        return self._referee.version or 0

    def _returns(self) -> list[float]:
        """Mean returns of the steps that count: those whose version was made."""
        steps = range(self._version)
        return [self._reports[step].mean_return for step in steps if step in self._reports]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
