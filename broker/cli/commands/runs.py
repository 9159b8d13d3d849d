"""`broker runs`: lists the runs on a server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.output import Output, Table

_COLUMNS = (
    "run",
    "version",
    "next step",
    "capacity",
    "pending",
    "running",
    "ready",
    "consumed",
    "dead",
    "workers",
    "claims",
)


#: What a narrow terminal leaves out, in this order: next step, dead, capacity, ready, consumed, pending.
_OPTIONAL = (2, 8, 3, 6, 7, 4)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(parser, "  broker runs\n  broker runs --json | jq -r .run")


def run(namespace: Namespace, output: Output) -> int:
    """List the runs with their main counters."""
    from broker.errors import BrokerError, NoRun

    rows: list[tuple[str, ...]] = []
    with options.connected(namespace) as operator:
        for name in sorted(operator.runs()):
            try:
                stats = operator.stats(name)
            except NoRun:  # the run was purged since it was listed
                continue
            except BrokerError as error:
                if error.code not in {"SCHEMA", "ERR"}:
                    raise
                # A run of another release, or another program's key with such a name. The other runs are shown.
                output.note(f"run {name}: {error}")
                continue
            if output.as_json:
                output.json(stats)
            numbers = (stats.version, stats.step_next, stats.capacity, stats.pending, stats.running, stats.ready)
            more = (stats.consumed, stats.dead, stats.sessions - stats.lapsed)
            rows.append(
                (
                    name,
                    *(f"{number:,}" for number in (*numbers, *more)),
                    "finished" if stats.finished else stats.paused or "open",
                )
            )
    if not output.as_json:
        if rows:
            output.table(Table(_COLUMNS, rows, numeric=frozenset(range(1, len(_COLUMNS) - 1)), optional=_OPTIONAL))
        else:
            output.note("no runs on this server")
    return 0
