"""`broker health RUN --worker NAME` or `--trainer`: whether it is alive, for probes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli import options
from broker.cli.failure import EXIT_FINDING, EXIT_OK
from broker.cli.output import Output
from broker.inspection.health import trainer_health, worker_health


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--worker", metavar="NAME", help="look at the worker of this name")
    whose.add_argument("--trainer", action="store_true", help="look at the run's trainer")
    parser.add_argument(
        "--max-silence",
        type=options.positive_seconds,
        metavar="SECONDS",
        help="how old the last sign of life may be (default: the worker's lease; 60 for the trainer)",
    )
    parser.add_argument(
        "--outage-ok",
        action="store_true",
        help="exit 0 if the server does not answer: for liveness probes, so that its outage restarts no worker",
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker health math-7b --worker $HOSTNAME --outage-ok    # the worker: Worker(name=os.environ['HOSTNAME'])\n"
        "  broker health math-7b --trainer --max-silence 120\n"
        "exit codes: 0 alive, 1 silent or not there, 2 not known: no such run, or no answer of the server",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Say whether it is alive."""
    from broker.errors import ServerUnavailable

    try:
        with options.connected(namespace) as operator:
            if namespace.trainer:
                found = trainer_health(operator.stats(namespace.run), namespace.max_silence)
            else:
                seen = operator.explain(namespace.run, worker=namespace.worker)
                found = worker_health(seen, namespace.worker, namespace.max_silence)
    except ServerUnavailable as error:
        if not namespace.outage_ok:
            raise
        output.note(f"not known: {error}")
        return EXIT_OK
    if output.as_json:
        output.json(found)
    else:
        output.line(found.sentence)
    return EXIT_OK if found.ok else EXIT_FINDING
