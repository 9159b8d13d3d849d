"""`broker plan`: what a choice of staleness costs, by a simulation."""

from __future__ import annotations

import argparse
import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any, Final

from broker.cli import frontier, options
from broker.cli.failure import EXIT_FINDING, EXIT_OK, CommandFailure
from broker.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.operator import Operator
    from broker.planning.choices import Choice
    from broker.planning.lengths import Lengths
    from broker.planning.setting import Setting

_MODES: Final = ("requeue", "drop", "keep", "wait")
#: Events that are read of a run at once.
_PIECE: Final = 1_000


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run: it is simulated as it has shown itself")
    what = parser.add_argument_group("what is simulated (of a run: in place of what it shows)")
    what.add_argument("--lengths", metavar="SPEC|FILE", help="how long a sample takes, see below")
    what.add_argument("--train-s", type=options.positive_seconds, metavar="S", help="how long a training step takes")
    what.add_argument("--places", type=_small, metavar="N", help="samples that all workers hold at once")
    what.add_argument("--consumer-batch-size", type=options.positive_int, metavar="B", help="tasks in a batch")
    what.add_argument("--samples", type=_small, metavar="N", help="samples of a task (default: 1)")
    what.add_argument("--lease-s", type=options.positive_seconds, metavar="S", help="of the workers (default: 60)")
    what.add_argument("--steps", type=_small, metavar="N", help="the length of a run (default: for 16,000 samples)")
    what.add_argument("--max-stale-requeues", type=int, metavar="N", help="as in the config (default: 10)")
    what.add_argument("--max-wait-s", type=options.positive_seconds, metavar="S", help="with wait (default: 600)")
    what.add_argument("--redraw", action="store_true", help="what starts over takes another time than before")
    what.add_argument("--seed", type=int, default=1, metavar="N", help="of the lengths (default: 1)")
    which = parser.add_argument_group("which choices are compared (values with commas between them)")
    which.add_argument("--max-staleness", type=_numbers, metavar="S,...", help="(default: 1,2,4)")
    which.add_argument("--staleness-limit", type=_numbers, metavar="D,...", help="(default: S, 4 S and 8 S)")
    which.add_argument("--on-stale", type=_modes, default=_MODES, metavar="MODE,...", help="(default: all)")
    which.add_argument(
        "--max-concurrent-rollouts", type=_at_once, metavar="C,...", help="`none`: as many as workers hold (default)"
    )
    which.add_argument("--enough", type=_numbers, metavar="N,...", help="samples of a group that are enough")
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument("--waste", type=_share, default=0.1, metavar="SHARE", help="most thrown away (default: 10%%)")
    wanted.add_argument("--bias", type=_share, default=0.1, metavar="SHARE", help="most bias of length (default: 10%%)")
    wanted.add_argument("--most-stale", type=_number, metavar="N", help="most staleness of what is trained")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker plan math-7b                       where this run is, and what would be better\n"
        "  broker plan math-7b --waste 5% --bias 20%\n"
        "  broker plan --lengths lognormal:60:1.5 --train-s 40 --places 256\n"
        "  broker plan --lengths seconds.txt --train-s 40 --places 256 --max-staleness 2 --json\n"
        "  broker plan --lengths '0.8*fixed:10+0.2*fixed:200' --train-s 5 --places 64 --consumer-batch-size 16\n\n"
        "lengths are fixed:SECONDS, lognormal:MEAN:SIGMA, exponential:MEAN, uniform:FROM:TO, a mixture, or a\n"
        "file with one number of seconds on each line.\n\n"
        "Workers and trainer are ideal: no call takes time, and workers have the newest weights at once.\n"
        "exit codes: 0 a choice is within what is wanted, 1 none is, 2 nothing could be simulated.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Simulates the choices, and shows them; exit 1 if none is within what is wanted."""
    from broker.planning.choices import Comparison, Wanted, compare

    if namespace.run:
        with options.connected(namespace) as operator:
            setting, now = _of_run(operator, namespace, output)
    else:
        setting, now = _given(namespace), None
    choices = _choices(namespace, setting, now)
    with output.progress("simulated steps") as progress:
        total = setting.steps * len(choices)
        rows = compare(setting, choices, lambda done: progress(done, total))
    wanted = Wanted(namespace.waste, namespace.bias, namespace.most_stale)
    of_run = now is not None and not namespace.lengths
    found = Comparison(setting, rows, wanted, namespace.run or "", now, of_run)
    if output.as_json:
        output.json(frontier.document(found))
    else:
        frontier.tell(found, output)
    return EXIT_OK if found.best else EXIT_FINDING


def _given(namespace: Namespace) -> Setting:
    from broker.planning.setting import Setting
    from broker.values.config import RunConfig

    missing = [f"--{name.replace('_', '-')}" for name in ("lengths", "train_s", "places") if not vars(namespace)[name]]
    if missing:
        raise CommandFailure(
            f"what is simulated? Name a run, or give {', '.join(missing)}.\n"
            "Example: broker plan --lengths lognormal:60:1.5 --train-s 40 --places 256"
        )
    config = RunConfig(consumer_batch_size=namespace.consumer_batch_size or 64, max_concurrent_samples=namespace.places)
    return _with_options(namespace, Setting(config, _lengths(namespace.lengths), namespace.train_s, namespace.places))


def _lengths(text: str) -> Lengths:
    from broker.planning.lengths import read_lengths

    try:
        return read_lengths(text)
    except ValueError as error:
        raise CommandFailure(f"--lengths: {error}") from None


def _with_options(namespace: Namespace, setting: Setting) -> Setting:
    """The setting with what the options say."""
    from dataclasses import replace

    from broker.planning.choices import steps_for
    from broker.values.config import RunConfig

    document = setting.config.to_document()
    if namespace.consumer_batch_size:
        document["consumer_batch_size"] = namespace.consumer_batch_size
    if namespace.max_stale_requeues is not None:
        document["max_stale_requeues"] = namespace.max_stale_requeues
    if namespace.max_wait_s is not None:
        document["max_wait_ms"] = math.ceil(1000 * namespace.max_wait_s)
    config, samples = RunConfig.model_validate(document), namespace.samples or setting.samples
    lease_s = namespace.lease_s or config.lease_ms / 1000
    for enough in namespace.enough or ():
        if not 1 <= (enough or 0) <= samples:
            raise CommandFailure(f"--enough: {enough} is not from 1 to the {samples} samples of a task")
    return replace(
        setting,
        config=config,
        samples=samples,
        steps=namespace.steps or steps_for(config.batch_size, samples),
        heartbeat_s=lease_s / 3,
        redraws=namespace.redraw,
        seed=namespace.seed,
    )


def _of_run(operator: Operator, namespace: Namespace, output: Output) -> tuple[Setting, Choice]:
    """What a run has shown of itself, and the choice that it has made."""
    from broker.planning.choices import Choice
    from broker.planning.lengths import of_histogram
    from broker.planning.observed import observed
    from broker.planning.setting import Setting

    name: str = namespace.run
    explanation = operator.explain(name)
    stats = explanation.stats
    if stats.admission:
        raise CommandFailure(f"run {name} is an admission run: it holds no tasks. Give --lengths, --train-s, --places.")
    if not namespace.lengths and not stats.time_histogram:
        raise CommandFailure(f"run {name} has no accepted result yet, so its lengths are not known. Give --lengths.")
    with output.progress("events read") as progress:
        seen = observed(_events(operator, name, progress))
    train_s: float | None = namespace.train_s or seen.train_s
    if train_s is None:
        raise CommandFailure(f"the event log of run {name} has no step that was trained. Give --train-s.")
    places = namespace.places or max(seen.places, explanation.holding.held)
    if not places:
        raise CommandFailure(f"the event log of run {name} shows no worker that held anything. Give --places.")
    known = [explanation.oldest_pending, explanation.oldest_ready, *(row.attempt_id for row in explanation.held[:1])]
    task = next((operator.task(name, each.partition("#")[0]) for each in known if each), None)
    lengths = _lengths(namespace.lengths) if namespace.lengths else of_histogram(stats.time_histogram)
    setting = Setting(stats.config, lengths, train_s, places, samples=task.samples if task else 1)
    setting = _with_options(namespace, setting)
    config = stats.config
    is_kept = config.on_stale == "keep" or config.max_staleness is None
    return setting, Choice(
        config.max_staleness,
        None if is_kept else config.oldest_trained,
        "keep" if is_kept else config.on_stale,
        config.concurrency if config.bounds_tasks else None,
        task.enough if task else None,
    )


def _events(operator: Operator, run: str, progress: Callable[[int], None]) -> Any:
    """The events that the log has now."""
    from broker.inspection.events import place

    after, last, number = "-", operator.last_event_id(run), 0
    while after != last and (events := operator.events(run, after, _PIECE)):
        for event in events:
            yield event
            number += 1
            if place(event.id) >= place(last):
                return
        progress(number)
        after = events[-1].id


def _choices(namespace: Namespace, setting: Setting, now: Choice | None) -> list[Choice]:
    from broker.planning.choices import grid

    staleness: Sequence[int | None]
    if now is None or now.max_staleness is None:
        staleness = [1, 2, 4]
    else:
        staleness = sorted({now.max_staleness // 2, now.max_staleness, 2 * now.max_staleness or 1})
    holds = math.ceil(setting.places / setting.samples)
    at_once = [None] if now is None else [None] if now.at_once is None or now.at_once >= holds else [now.at_once, None]
    enough = [now.enough if now else None]
    found = grid(
        namespace.max_staleness or staleness,
        [limit for limit in namespace.staleness_limit or () if limit is not None],
        namespace.on_stale,
        namespace.max_concurrent_rollouts or at_once,
        namespace.enough or enough,
    )
    if not found:
        raise CommandFailure("there is nothing to compare: each --staleness-limit is below each --max-staleness")
    return found if now is None or now in found else [now, *found]


# Arguments.


def _numbers(text: str) -> list[int | None]:
    return [_number(word) for word in text.split(",")]


def _number(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or len(word) > 9:
        raise ArgumentTypeError(f"{word!r} is not a whole number of at most nine digits")
    return int(word)


def _at_once(text: str) -> list[int | None]:
    found = [None if word == "none" else _number(word) for word in text.split(",")]
    if 0 in found:
        raise ArgumentTypeError("0 is not a number of tasks at once")
    return found


def _small(text: str) -> int:
    number = _number(text)
    if not 1 <= number <= 100_000:
        raise ArgumentTypeError(f"{text} is not from 1 to 100000")
    return number


def _modes(text: str) -> list[str]:
    found = text.split(",")
    for word in found:
        if word not in _MODES:
            raise ArgumentTypeError(f"{word!r} is none of {', '.join(_MODES)}")
    return found


def _share(text: str) -> float:
    percent = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, such as 10%% or 0.1")
    return number
