"""The traceback of an interrupt that ended a call."""

from types import TracebackType

#: Packages whose frames are part of a broker call.
_INNER = frozenset({"broker", "redis", "asyncio", "ssl", "socket", "threading", "concurrent"})
#: The module of the signal handlers. It looks for them in tracebacks, so their frames stay.
_HANDLERS = "broker.worker.signals"


def shorten(error: BaseException) -> None:
    """Removes the broker's frames from the traceback of an interrupt: they tell the user nothing."""
    kept: list[TracebackType] = []
    trace = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__"))
        if name == _HANDLERS or name.partition(".")[0] not in _INNER:
            kept.append(trace)
        trace = trace.tb_next
    shorter: TracebackType | None = None
    for trace in reversed(kept):
        shorter = TracebackType(shorter, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
    error.__traceback__ = shorter
    error.__suppress_context__ = True  # nor does the exception that was handled when the signal came
