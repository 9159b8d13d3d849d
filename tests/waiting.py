"""Waiting for conditions instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

from broker import Trainer
from broker.errors import NoRun

T = TypeVar("T")

_LOOK_EVERY_S = 0.01


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """Calls `condition` until its answer is true, and returns that answer.

    Args:
        condition: called again and again; its exceptions are not caught.
        what: names the condition in the error.
        timeout_s: how long to wait, seconds.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}; last answer {answer!r}"
        time.sleep(_LOOK_EVERY_S)
    return answer


def run_exists(url: str, run: str) -> bool:
    """Whether a trainer has created the run."""
    try:
        Trainer(url, run, attach=True).close()
    except NoRun:
        return False
    return True
