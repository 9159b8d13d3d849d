"""The catalogue of commands: their names, their lines in `broker --help`, and the module of each.

It names the modules without importing them; only the module of the given command is imported. So `broker --help` is
instant, and an optional dependency is missed only by the command that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from broker.cli.output import Output


class Command(Protocol):
    """The functions of a command's module."""

    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Output], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One command in the catalogue: its name, its line in `broker --help`, and the module that has it."""

    name: str
    summary: str
    module: str

    def load(self) -> Command:
        """Import the command's module."""
        return cast("Command", import_module(f"broker.cli.commands.{self.module}"))


CATALOGUE: tuple[Entry, ...] = (
    Entry("demo", "train a real policy asynchronously, on this machine, in a minute or two", "demo"),
    Entry("serve", "run a private server in the foreground and print its URL", "serve"),
    Entry("gateway", "serve a run to workers that speak another system's protocol over HTTP", "gateway"),
    Entry("web", "serve pages that show runs in a browser", "web"),
    Entry("runs", "list the runs on a server", "runs"),
    Entry("watch", "show a run live: progress, rates, what holds it up, who works on what", "watch"),
    Entry("status", "show a run's counters; --watch keeps them on the screen", "status"),
    Entry("explain", "say in words why workers get tasks or do not, and what would change it", "explain"),
    Entry(
        "plan", "say what staleness costs: simulate choices, and recommend one for a run or for given lengths", "plan"
    ),
    Entry("health", "say whether a worker or the trainer is alive, for probes; exit 1 if it is not", "health"),
    Entry("metrics", "print the numbers of runs for Prometheus, or serve them with --port", "metrics"),
    Entry("tail", "follow what happens in a run, transition by transition", "tail"),
    Entry("audit", "recompute a run's counters from its structures; exit 1 if they disagree", "audit"),
    Entry("verify", "replay a run's event log against the guarantees; exit 1 if one is broken", "verify"),
    Entry("dead", "list, show or retry tasks that ended dead or rejected", "dead"),
    Entry("pause", "stop handing out tasks (--drain: finish the groups that are started)", "pause"),
    Entry("resume", "hand out tasks again", "resume"),
    Entry("configure", "change the config of a run while it runs", "configure"),
    Entry("finish", "say that the run is over: workers end by themselves", "finish"),
    Entry("readmit", "give work again to workers that are quarantined", "readmit"),
    Entry("prioritise", "start tasks that wait earlier or later", "prioritise"),
    Entry("cancel", "reject tasks that nobody needs any more", "cancel"),
    Entry("checkpoint", "write a checkpoint of a run by hand, and commit it", "checkpoint"),
    Entry("recover", "take a run back to a checkpoint: counters, tasks, and what is in flight", "recover"),
    Entry("acl", "print the server's ACL rules for trainers, workers, observers and admins of a run", "acl"),
    Entry("functions", "list the releases' function libraries on a server; --delete-old deletes old ones", "functions"),
    Entry("purge", "delete everything of a run", "purge"),
)
