"""Runs the demo: starts the trainer and the workers, follows the run, kills processes if asked to, and cleans up.

The supervisor takes no part in the training: trainer and workers share nothing but the server.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from broker.connections.resolve import opened_address
from broker.demo.chaos import Chaos
from broker.demo.display import View, display
from broker.demo.interrupts import Interrupts
from broker.demo.options import CHECKPOINT, DemoOptions, Summary, task_id
from broker.demo.processes import Child, DemoFailed, Processes
from broker.demo.referee import Referee
from broker.errors import NoRun
from broker.errors.words import count
from broker.inspection.events import Follower
from broker.inspection.stats import Stats
from broker.local_server.temporary import temporary_directory, what_failed
from broker.operator import Operator
from broker.recovery.checkpoint import Checkpoint
from broker.recovery.find_checkpoint import exists, load_source
from broker.values.names import check_name

#: The modules of the children.
TRAINER: Final = "broker.demo.trainer"
WORKER: Final = "broker.demo.worker"

#: How long the supervisor tries to reach a server that does not answer, seconds.
_PATIENCE_S: Final = 5.0

#: Pause between two looks, seconds.
_LOOK_S: Final = 0.1

#: The run stands still when no result came and no step was made for this long, seconds.
_STALL_S: Final = 90.0

#: Steps whose mean return is reported as the last.
_LAST_STEPS: Final = 10


def run_demo(options: DemoOptions) -> Summary:
    """Trains with real processes, and judges the run by its event log. Called from the main thread.

    Returns:
        The summary, also after Ctrl-C or SIGTERM; all children have ended.

    Raises:
        DemoFailed: a child process failed, or the run exists already.
        BrokerError: the server cannot be used.
    """
    options = replace(options, run=check_name("run", options.run or f"demo-{secrets.token_hex(4)}"))
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts().listening())
        _, server = opened_address(options.url)
        if server is not None:
            stack.callback(server.release)
        url = options.url if server is None else server.url
        operator = stack.enter_context(Operator(url, retry_for_s=_PATIENCE_S))
        try:
            directory = TemporaryDirectory(prefix="rollout-broker-demo-", dir=temporary_directory())
        except OSError as error:
            raise DemoFailed(what_failed(error)) from error
        checkpoints = Path(stack.enter_context(directory))
        with suppress(NoRun):
            operator.stats(options.run)
            raise DemoFailed(f"run {options.run} exists already: choose another name, or `broker purge {options.run}`")
        if server is None:
            look = f"to look at (`broker tail {options.run}`) or to `broker purge {options.run}`"
            stack.callback(sys.stderr.write, f"run {options.run} stays on the server, {look}\n")
        show = stack.enter_context(display(quiet=options.json))
        supervisor = Supervisor(options, url, operator, checkpoints)
        supervisor.run(show, interrupts)
        return replace(supervisor.summary(), signal=interrupts.number)


class Supervisor:
    """One run of the demo.

    Args:
        options: of the demo; `run` is the name to use.
        url: the server that the children connect to.
        operator: the supervisor's own connection to it.
        checkpoints: directory for the trainer's checkpoints.
    """

    def __init__(self, options: DemoOptions, url: str, operator: Operator, checkpoints: Path) -> None:
        info = operator.transport.server_info()
        where = " (embedded)" if options.url.startswith("embedded:") else ""
        self._server = f"{info.kind} {'.'.join(map(str, info.version))}{where}"
        self._options = options
        self._url = url
        self._operator = operator
        self._checkpoints = checkpoints
        self._referee = Referee(options.batch_size, options.max_staleness)
        self._follower = Follower(operator.transport.command, options.run)
        self._mean_returns: dict[int, float] = {}
        self._max_capacity = 0
        self._completed = False
        self._began = self._moved = time.monotonic()
        self._processes = Processes(options.workers, self._start)

    def run(self, show: Callable[[View], None], interrupts: Interrupts) -> None:
        """Trains to the last step, or until it is interrupted. All children have ended when it returns.

        Raises:
            DemoFailed: a child ended by itself.
            BrokerError: the server cannot be reached any more.
        """
        chaos = Chaos(self._options, self._processes, self._referee)
        try:
            while not (self._completed or self._is_stalled() or interrupts.wait(_LOOK_S)):
                self._completed = self._processes.are_done()
                try:
                    stats = self._look()
                except NoRun:  # the trainer has not created it yet
                    continue
                if not self._completed:
                    chaos.act(time.monotonic(), self._version)
                totals = self._referee.totals
                frozen = sum(worker.is_frozen for worker in self._processes.workers)
                show(View(self._options, self.summary(), stats, totals, self._returns(), frozen, chaos.deeds))
        finally:
            self._processes.end()
        # The workers gave their attempts back: the log has that too.
        self._judge()
        self._hold_against_checkpoint()

    def summary(self) -> Summary:
        """The summary by the event log so far."""
        options, totals, returns = self._options, self._referee.totals, self._returns()
        lost = self._referee.in_state("lost", "dead", "rejected")
        if self._completed:  # a finished run has trained on all tasks
            lost |= self._referee.in_state("pending", "running", "ready", "batched", "sealed")
        violations = self._referee.violations
        if lost:
            violations.append(f"{count(len(lost), 'task is', 'tasks are')} lost: {', '.join(sorted(lost)[:5])}")
        if self._max_capacity > options.budget:
            violations.append(f"capacity was {self._max_capacity}, more than {options.budget}")
        last = returns[-_LAST_STEPS:]
        return Summary(
            steps=self._version,
            consumed=totals.consumed,
            duplicates=totals.duplicates,
            max_staleness_seen=max(totals.staleness, default=0),
            max_staleness=options.max_staleness,
            late_refused=totals.late.total(),
            requeued=totals.requeued,
            workers_killed=self._processes.workers_killed,
            return_first=round(returns[0], 2) if returns else None,
            return_last=round(sum(last) / len(last), 2) if last else None,
            seconds=round(time.monotonic() - self._began, 2),
            server=self._server,
            trainer_kills=self._processes.trainers_killed,
            trained_exactly_once=self._referee.trained_exactly_once,
            lost=len(lost),
            max_capacity_seen=self._max_capacity,
            max_capacity=options.budget,
            violations=violations,
        )

    def _start(self, name: str) -> Child:
        options = self._options
        if name != "trainer":
            return Child(name, WORKER, ["--run", options.run, "--name", name], self._url)
        arguments = {
            "--run": options.run,
            "--steps": options.steps,
            "--samples": options.samples,
            "--max-staleness": options.max_staleness,
            "--seed": options.seed,
            "--lease-s": options.lease_s,
            "--checkpoints": self._checkpoints,
        }
        return Child(name, TRAINER, [str(word) for pair in arguments.items() for word in pair], self._url)

    def _look(self) -> Stats:
        for line in self._processes.lines():
            report = json.loads(line)
            self._mean_returns[report["step"]] = report["mean_return"]
        before = self._referee.totals.accepted, self._version
        self._judge()
        if (self._referee.totals.accepted, self._version) != before:
            self._moved = time.monotonic()
        stats = self._operator.stats(self._options.run)
        self._max_capacity = max(self._max_capacity, stats.capacity)
        return stats

    def _judge(self) -> None:
        """Reads the event log often enough that no event is trimmed unread."""
        for page in self._follower.pages():
            if page.has_gap:
                self._referee.missed()
            for event in page.events:
                for kind, words in event.transitions:
                    self._referee.feed(kind, words.split(), event.id)

    def _is_stalled(self) -> bool:
        """Notes if the run stands still. That breaks a guarantee: live workers get work."""
        if time.monotonic() - self._moved < _STALL_S:
            return False
        self._referee.stalled(_STALL_S)
        return True

    def _hold_against_checkpoint(self) -> None:
        """Compares the log with the newest checkpoint."""
        path = self._checkpoints / CHECKPOINT
        if exists(path):
            made = load_source(path, self._options.run)
            assert isinstance(made, Checkpoint)
            fed = {task_id(number) for number in range(made.cursor or 0)}
            self._referee.compare(made.version, fed - made.unfinished)

    def _returns(self) -> list[float]:
        """Mean returns of the steps whose version was made."""
        return [self._mean_returns[step] for step in range(self._version) if step in self._mean_returns]

    @property
    def _version(self) -> int:
        """The newest version of the surviving history, by the log."""
        return self._referee.version or 0
