"""`broker demo`: asynchronous policy gradient on CartPole, to see the broker at work on a real training run.

A trainer process and worker processes share nothing but the server. A supervisor starts them, shows how it goes, kills
some if asked to, and judges the run by its event log.
"""

from typing import TYPE_CHECKING, Any

from broker.demo.options import DemoOptions, Summary

if TYPE_CHECKING:
    from broker.demo.run import DemoInterrupted, run_demo

__all__ = ["DemoInterrupted", "DemoOptions", "Summary", "run_demo"]


def __getattr__(name: str) -> Any:
    # When it is asked for: it needs the extra `demo`, and `broker demo --help` does not.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from broker.demo import run

    return getattr(run, name)
