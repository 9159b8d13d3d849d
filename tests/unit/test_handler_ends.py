"""The wait for the end of a handler."""

from __future__ import annotations

import sys
import time
from types import FrameType
from typing import Any

from broker.worker import handler_ends
from broker.worker.handler_ends import HandlerEnds
from tests.threads import InThread


def test_an_end_is_told_once_and_can_be_forgotten() -> None:
    ends = HandlerEnds()
    wait = InThread(lambda: ends.wait(30))
    ends.tell()
    wait.result()
    ends.tell()
    ends.tell()
    ends.forget()
    began = time.monotonic()
    ends.wait(0.05)
    assert time.monotonic() - began >= 0.04


def test_no_python_code_that_a_signal_could_break_off_runs_in_the_wait() -> None:
    """A signal handler raises between two lines of Python: in `threading.Event.wait` the exception may get lost."""
    ends, files = HandlerEnds(), set[str]()

    def look(frame: FrameType, _event: str, _arg: Any) -> None:
        files.add(frame.f_code.co_filename)

    before = sys.gettrace()
    sys.settrace(look)
    try:
        ends.wait(0.01)
    finally:
        sys.settrace(before)
    assert files == {handler_ends.__file__}
