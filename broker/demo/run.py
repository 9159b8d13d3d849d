"""One demo from start to end: a server, a run, its supervisor, a summary."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from broker.connections import open_transport
from broker.connections.opening import opened_address
from broker.demo.crew import ChildFailed
from broker.demo.display import make_display
from broker.demo.interrupts import Interrupts
from broker.demo.options import DemoOptions, Summary, new_run_name
from broker.demo.supervisor import Supervisor
from broker.errors import BrokerError, NoRun
from broker.local_server.temporary import temporary_directory, what_failed
from broker.protocol import anyone
from broker.values.names import check_name

#: How long the supervisor tries to reach a server that does not answer, seconds.
_PATIENCE_S: Final = 5.0


class DemoInterrupted(Exception):
    """Ctrl-C or SIGTERM ended the demo.

    Args:
        number: the signal.
        summary: what had happened until then.
    """

    def __init__(self, number: int, summary: Summary) -> None:
        super().__init__(f"ended by signal {number} after {summary.steps} steps")
        self.number = number
        self.summary = summary


class DemoFailed(Exception):
    """The demo could not be done, or could not go on. The message says why and what to do."""


def run_demo(options: DemoOptions) -> Summary:
    """Trains with real processes, and judges the run by its event log.

    Returns:
        What happened; `kept` says whether every guarantee held.

    Raises:
        DemoInterrupted: Ctrl-C or SIGTERM; all children are gone.
        DemoFailed: a child process failed, or the run exists already.
        BrokerError: the server cannot be used.
    """
    options = replace(options, run=check_name("run", options.run or new_run_name()))
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        _, server = opened_address(options.url)
        if server is not None:
            stack.callback(server.release)
        url = options.url if server is None else server.url
        transport = stack.enter_context(open_transport(url, retry_for_s=_PATIENCE_S))
        savings = _savings(stack)
        existing = transport.execute([anyone.stats(options.run)])[0]
        if not isinstance(existing, BrokerError):
            raise DemoFailed(f"run {options.run} exists already: choose another name, or `broker purge {options.run}`")
        if not isinstance(existing, NoRun):
            raise existing
        if server is None:
            stack.callback(_tell_where, options.run)
        display = stack.enter_context(make_display(quiet=options.json))
        supervisor = Supervisor(options, url, transport, display, interrupts)
        try:
            supervisor.run(savings)
        except ChildFailed as error:
            raise DemoFailed(str(error)) from None
        summary = supervisor.summary()
        if interrupts.number is not None:
            raise DemoInterrupted(interrupts.number, summary)
        return summary


def _savings(stack: ExitStack) -> Path:
    """A directory for the trainer's checkpoints."""
    try:
        place = TemporaryDirectory(prefix="rollout-broker-demo-", dir=temporary_directory())
    except OSError as error:
        raise DemoFailed(what_failed(error)) from error
    return Path(stack.enter_context(place))


def _tell_where(run: str) -> None:
    sys.stderr.write(f"run {run} stays on the server, to look at (`broker tail {run}`) or to `broker purge {run}`\n")
