"""Spans of OpenTelemetry for a run: an attempt from its claim to its answer, a step with links to what it trains on.

`install` turns them on for all clients of the process. It needs the extra `otel`.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import broker
from broker.errors import Reject
from broker.values import spans

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "broker.tracing needs OpenTelemetry: install the extra `otel` of rollout-broker", name=error.name
    ) from error

if TYPE_CHECKING:
    from broker.values.attempt import Attempt
    from broker.values.rollout import Rollout

__all__ = ["context_of_attempt", "context_of_step", "install", "uninstall"]

_log = logging.getLogger(__name__)

#: Attributes of all spans begin so.
_PREFIX: Final = "broker."


def install(tracer_provider: TracerProvider | None = None) -> None:
    """Traces all clients of this process from now on. Workers and trainers each call it.

    Results then carry the context of their attempt, by which a traced trainer links a step to the attempts that it
    trains on. Trainers of a release that does not know contexts cannot read such results.

    Args:
        tracer_provider: makes the spans; None: the global one.
    """
    spans.active = _Spans(trace.get_tracer("broker", broker.__version__, tracer_provider))


def uninstall() -> None:
    """Traces no client any more; spans that are open end."""
    active, spans.active = spans.active, None
    if isinstance(active, _Spans):
        active.end_all()


def context_of_attempt(attempt: Attempt) -> Context | None:
    """The context for spans of your own below the span of an attempt; None: it is not traced, or has ended.

    A handler of `Worker.run` needs no context: spans that it begins are below its own already.
    """
    active = spans.active
    return active.context_of_attempt(attempt.id) if isinstance(active, _Spans) else None


def context_of_step(run: str, step: int) -> Context | None:
    """The context for spans of your own below the span of a step that is being trained; None: there is none."""
    active = spans.active
    return active.context_of_step(run, step) if isinstance(active, _Spans) else None


class _Attempt:
    """The open spans of an attempt."""

    __slots__ = ("span", "submit")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.submit: Span | None = None


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _never_raises(otherwise: _R) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A fault of a span processor costs spans, and nothing else: it is logged, and the call returns `otherwise`."""

    def guarding(method: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(method)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return method(*args, **kwargs)
            except Exception:  # noqa: BLE001 - a stranger's processor raises any
                _log.exception("a span is missing: %s failed", method.__name__)
                return otherwise

        return guarded

    return guarding


class _Request:
    """The span of a request; None: it has none."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    @_never_raises(None)
    def answered(self, status: int) -> None:
        if self._span is not None:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))


class _Spans:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._lock = threading.Lock()
        self._attempts: dict[str, _Attempt] = {}
        self._steps: dict[tuple[str, int], Span] = {}

    def now_ns(self) -> int:
        return time.time_ns()

    # -- attempts --------------------------------------------------------------------------------------------------

    @_never_raises(None)
    def claimed(self, worker: str, since_ns: int, attempts: Sequence[Attempt]) -> None:
        run = attempts[0].run
        claim = self._tracer.start_span(
            "broker.claim",
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes=_attributes(run=run, worker=worker, attempts=len(attempts)),
            start_time=since_ns,
        )
        claim.end()
        links = [Link(claim.get_span_context())]
        for attempt in attempts:
            told = _attributes(
                run=run,
                worker=worker,
                task=attempt.task,
                attempt=attempt.id,
                slot=attempt.slot,
                version=attempt.version,
                tries=attempt.tries,
            )
            span = self._tracer.start_span(
                "broker.attempt", context=Context(), kind=SpanKind.CONSUMER, attributes=told, links=links
            )
            with self._lock:
                self._attempts[attempt.id] = _Attempt(span)

    def handle(self, handler: Callable[[Attempt], Any], attempt: Attempt) -> Any:
        with self._handling(attempt):
            return handler(attempt)

    async def wait_for(self, outcome: Awaitable[Any], attempt: Attempt) -> Any:
        with self._handling(attempt):
            return await outcome

    @contextmanager
    def _handling(self, attempt: Attempt) -> Generator[None]:
        span = self._begin_handler(attempt.id)
        if span is None:
            yield
            return
        with self._inside(span, lambda error: not isinstance(error, Reject)):  # a verdict is no error
            yield

    @contextmanager
    def _inside(self, span: Span, is_error: Callable[[BaseException], bool]) -> Generator[None]:
        """The block is the span's: the span tells of what the block raises, if that is an error, and ends with it."""
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as error:
            if is_error(error):
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            self._end_span(span)

    @_never_raises(cast("Span | None", None))
    def _begin_handler(self, attempt_id: str) -> Span | None:
        context = self.context_of_attempt(attempt_id)
        return None if context is None else self._tracer.start_span("broker.handler", context=context)

    @_never_raises(None)
    def _end_span(self, span: Span) -> None:
        span.end()

    @_never_raises("")
    def submitting(self, attempt_id: str) -> str:
        found = self._attempts.get(attempt_id)
        if found is None:
            return ""
        context = found.span.get_span_context()
        if found.submit is None:
            found.submit = self._tracer.start_span(
                "broker.submit", context=trace.set_span_in_context(found.span, Context()), kind=SpanKind.PRODUCER
            )
        return _traceparent(context)

    @_never_raises(None)
    def answered(self, attempt_id: str, answer: str) -> None:
        self._end(attempt_id, answer)

    @_never_raises(None)
    def failed(self, attempt_id: str, error: str) -> None:
        self._end(attempt_id, "failed", Status(StatusCode.ERROR, error))

    @_never_raises(None)
    def left(self, attempt_id: str, why: str) -> None:
        self._end(attempt_id, why)

    def _end(self, attempt_id: str, how: str, status: Status | None = None) -> None:
        with self._lock:
            found = self._attempts.pop(attempt_id, None)
        if found is None:
            return
        for span in (found.submit, found.span):
            if span is not None:
                span.set_attribute(f"{_PREFIX}answer", how)
                if status is not None:
                    span.set_status(status)
                span.end()

    def context_of_attempt(self, attempt_id: str) -> Context | None:
        found = self._attempts.get(attempt_id)
        return None if found is None else trace.set_span_in_context(found.span, Context())

    # -- steps -----------------------------------------------------------------------------------------------------

    @_never_raises(None)
    def delivered(self, run: str, step: int, rollouts: Sequence[Rollout]) -> None:
        samples = [sample for rollout in rollouts for sample in rollout.samples]
        contexts = [(sample, _context_in(sample.trace)) for sample in samples]
        links = [
            Link(context, _attributes(attempt=sample.attempt_id, worker=sample.worker))
            for sample, context in contexts
            if context is not None
        ]
        told = _attributes(
            run=run,
            step=step,
            rollouts=len(rollouts),
            samples=len(samples),
            staleness=max((rollout.staleness for rollout in rollouts), default=0),
        )
        span = self._tracer.start_span(
            "broker.train", context=Context(), kind=SpanKind.CONSUMER, attributes=told, links=links
        )
        with self._lock:
            before = self._steps.pop((run, step), None)
            self._steps[run, step] = span
        if before is not None:  # the same batch again, or another one after a recovery
            before.end()

    @_never_raises(None)
    def trained(self, run: str, step: int) -> None:
        with self._lock:
            ended = [self._steps.pop(key) for key in list(self._steps) if key[0] == run and key[1] <= step]
        for span in ended:
            span.end()

    def context_of_step(self, run: str, step: int) -> Context | None:
        span = self._steps.get((run, step))
        return None if span is None else trace.set_span_in_context(span, Context())

    # -- requests to a gateway -------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, method: str, route: str, traceparent: str) -> Generator[_Request]:
        span = self._begin_request(method, route, traceparent)
        if span is None:
            yield _Request(None)
            return
        with self._inside(span, lambda error: isinstance(error, Exception)):  # a cancellation is none
            yield _Request(span)

    @_never_raises(cast("Span | None", None))
    def _begin_request(self, method: str, route: str, traceparent: str) -> Span | None:
        client, context = _context_in(traceparent), Context()
        if client is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(client), context)
        told = {"http.request.method": method, "http.route": route}
        return self._tracer.start_span(f"{method} {route}", context=context, kind=SpanKind.SERVER, attributes=told)

    @_never_raises("")
    def here(self) -> str:
        return _traceparent(trace.get_current_span().get_span_context())

    @_never_raises(None)
    def note(self, **attributes: str) -> None:
        trace.get_current_span().set_attributes(_attributes(**attributes))

    def end_all(self) -> None:
        """Ends all spans that are open."""
        for attempt_id in list(self._attempts):
            self._end(attempt_id, "untraced")
        with self._lock:
            steps, self._steps = self._steps, {}
        for span in steps.values():
            span.end()


def _attributes(**named: str | int) -> dict[str, str | int]:
    return {f"{_PREFIX}{name}": value for name, value in named.items()}


def _traceparent(context: SpanContext) -> str:
    """The W3C `traceparent` of a span; empty: there is none, or it is not sampled."""
    if not (context.is_valid and context.trace_flags.sampled):
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context_in(traceparent: str) -> SpanContext | None:
    """The context that a result carried; None if it carried none that can be read."""
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        found = SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return found if found.is_valid else None
