"""`broker configure RUN NAME=VALUE ...`: change the config of a run that goes on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from broker.cli import options
from broker.cli.output import Output


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "changes", nargs="+", metavar="NAME=VALUE", help="a field of the config and its new value; `none`: no bound"
    )
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker configure math-7b max_concurrent_rollouts=2048\n"
        "  broker configure math-7b max_staleness=none max_attempts=5",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Changes the fields, and says when each change takes effect. The trainer is not fenced."""
    from broker.values.config_change import TAKES_EFFECT

    name: str = namespace.run
    changes = _parsed(namespace.changes)
    with options.connected(namespace) as operator:
        before = operator.configure(name, **changes)
        config = operator.stats(name).config
    if output.as_json:
        output.json({"run": name, "before": before, "config": config.model_dump()})
        return 0
    for field in [*changes, *(field for field in before if field not in changes)]:
        now = _word(field, getattr(config, field))
        if field in before:
            output.line(f"{field}: {_word(field, before[field])} -> {now}. It takes effect {TAKES_EFFECT[field]}.")
        else:
            output.line(f"{field} was {now} already")
    return 0


def _parsed(pairs: list[str]) -> dict[str, Any]:
    """The changes as values. Text that is no number stays text: the check of the field says what is expected."""
    from broker.errors import BadArgument

    changes: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, text = pair.partition("=")
        if not is_pair or not name:
            raise BadArgument(argument="changes", given=pair, expected="NAME=VALUE, such as max_attempts=5")
        number = text.removeprefix("-")
        changes[name] = int(text) if number.isascii() and number.isdecimal() and len(number) < 20 else text
        if text.lower() == "none":
            changes[name] = None
    return changes


def _word(field: str, value: Any) -> str:
    from broker.values.config import UNBOUNDED

    is_unbounded = value is None or (field == "max_concurrent_rollouts" and value >= UNBOUNDED)
    return "none" if is_unbounded else str(value)
