"""`broker status RUN`: the counters of a run, once or live."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.output import Output, Table
from broker.errors.words import count, duration
from broker.inspection.times import lost_told, quantiles_told
from broker.protocol.ids import worker_of

if TYPE_CHECKING:
    from broker.inspection.stats import Stats


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="as `broker watch RUN`, until q or Ctrl-C; with --json one object a look",
    )
    options.add_interval(parser)
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker status math-7b\n"
        "  broker status math-7b --watch --interval 0.5    as `broker watch math-7b`\n"
        "  broker status math-7b --json | jq .capacity",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Show the run's counters."""
    connection = options.following if namespace.watch else options.connected
    with connection(namespace) as operator:
        if not namespace.watch:
            stats = operator.stats(namespace.run)
            if output.as_json:
                output.json(stats)
            else:
                output.tables(tables(stats))
            return 0
        if output.as_json:
            while True:
                output.json(operator.stats(namespace.run))
                time.sleep(namespace.interval)
        from broker.cli.commands.watch import watch_run

        return watch_run(operator, namespace.run, namespace.interval, output)


def tables(stats: Stats) -> list[Table]:
    """The counters as tables: the run, its tasks by state or what it counts, and what happened so far."""
    happened = [(name.replace("_", " "), f"{number:,}") for name, number in sorted(stats.totals.items()) if number]
    shown = [
        Table(("", ""), _run_rows(stats), title=f"run {stats.run}"),
        Table(("rollouts" if stats.admission else "tasks", "now"), _now_rows(stats), numeric=frozenset({1})),
    ]
    if happened:
        shown.append(Table(("since the start", "times"), happened, numeric=frozenset({1})))
    return shown


def _run_rows(stats: Stats) -> list[tuple[str, str]]:
    config = stats.config
    bound = (
        "no bound"
        if config.max_staleness is None
        else f"max_staleness {config.max_staleness}, limit {config.oldest_trained}"
    )
    at_once = [f"max_concurrent_rollouts {config.concurrency}"] if config.bounds_tasks else []
    if config.max_concurrent_samples is not None:
        at_once.append(f"max_concurrent_samples {config.max_concurrent_samples}, {stats.held} held")
    rows = [
        ("version", f"{stats.version}"),
        ("next step", f"{stats.step_next}"),
        ("epoch", stats.epoch),
        (
            "capacity",
            f"{stats.capacity} ({', '.join([f'batch {config.batch_size}', bound, *at_once])})",
        ),
        ("processes" if stats.admission else "workers", workers(stats)),
    ]
    if stats.paused:
        rows.append(("claims", stats.paused))
    if stats.finished:
        rows.append(("finished", "no task is handed out, and no batch is formed"))
    if stats.halted:
        rows.append(
            ("halted", f"{count(stats.halted, 'failure')} without an accepted result; broker explain {stats.run}")
        )
    if stats.quarantined:
        rows.append(("quarantined", in_quarantine(stats)))
    if stats.recovering is not None:
        rows.append(("recovering", f"to version {stats.recovering}"))
    if stats.generation_s:
        rows.append(("accepted attempts took", quantiles_told(stats.generation_s)))
    if lost := lost_told(stats.lost_s, stats.mean_s):
        rows.append(("lost", lost))
    if stats.awaited:
        rows.append(("missing", f"{count(stats.awaited, 'task')} that the last recovery named"))
    if stats.floor:
        rows.append(("recoverable from", f"version {stats.floor}"))
    if stats.operator_checkpoints:
        rows.append(("operators' checkpoints", "version " + ", ".join(map(str, stats.operator_checkpoints))))
    return rows


def workers(stats: Stats) -> str:
    """How many workers are connected, and how many have been silent for longer than their lease."""
    connected = f"{stats.sessions - stats.lapsed:,}"
    return f"{connected}, and {stats.lapsed:,} silent for longer than their lease" if stats.lapsed else connected


def in_quarantine(stats: Stats) -> str:
    """The workers that are quarantined, and for how long."""
    named = [f"{worker_of(session)} for {duration(left_s)}" for session, left_s in stats.quarantine.items()]
    more = stats.quarantined - len(named)
    return ", ".join(named) + (f", and {more:,} more" if more else "") + f"; broker readmit {stats.run}"


def _now_rows(stats: Stats) -> list[tuple[str, str]]:
    """The tasks by state; of an admission run, which holds none, what is counted."""
    numbers = dict[str, int]()
    for state, number in ({"running": stats.running} if stats.admission else stats.by_state()).items():
        numbers["in the unsealed batch" if state == "batched" else state] = number
        if state == "running" and not stats.admission:
            numbers["  with open slots"] = stats.open_slots
    numbers["accepted (counter)"] = stats.accepted
    return [(name, f"{number:,}") for name, number in numbers.items()]
