"""Finds the attempt for which somebody began the task or callback that ended the event loop.

SystemExit and KeyboardInterrupt of any task or callback leave the event loop at once; the handler that began the
task hears nothing of it. `asyncio.run` then cancels all tasks, the worker's too.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import Context, ContextVar
from types import CodeType, TracebackType
from typing import Any

#: The id of the attempt that a handler or a task works on. The tasks and callbacks that it begins have a copy.
WORKED_ON: ContextVar[str] = ContextVar("broker_worked_on")

_CALLING: Any = asyncio.Handle
#: The function of the event loop that calls each task and each callback.
_CALLS: CodeType = _CALLING._run.__code__  # noqa: SLF001 - no public name
#: The function that cancels all tasks when an exception has left the event loop; `asyncio.run` calls it too.
_ENDS: CodeType = asyncio.Runner.__exit__.__code__


def exit_of_loop() -> tuple[BaseException, str] | None:
    """The exception that ended the event loop, and the attempt for which was begun what raised it.

    Returns:
        None where the loop was not ended, or by something else. Event loops that are not asyncio's own do not say.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not _ENDS:
        frame = frame.f_back
    if frame is None:
        return None
    error: BaseException | None = frame.f_locals.get("exc_val")
    # The exception's own traceback is shorter, once a task has asked another one for its result.
    trace: TracebackType | None = frame.f_locals.get("exc_tb")
    while error is not None and trace is not None:
        if trace.tb_frame.f_code is _CALLS:
            context: Context | None = getattr(trace.tb_frame.f_locals["self"], "_context", None)
            attempt_id = None if context is None else context.get(WORKED_ON)
            if attempt_id is not None:
                return error, attempt_id
        trace = trace.tb_next
    return None
