"""The reference model: `docs/protocol.md` in plain Python, written from the documents and not from the scripts."""

from __future__ import annotations

from . import recovery_calls, trainer_calls, worker_calls
from .calls import Answer, Call, Numbered, Open, RecoverBegin, Requeue, SetBytes, Trim, error
from .invariants import check
from .state import Run
from .transitions import sweep


class Model:
    """One run. Every call checks the invariants of the state that it leaves."""

    def __init__(self) -> None:
        self.run: Run | None = None

    def apply(self, call: Call, now_ms: int) -> Answer:
        """Executes one call as the broker would.

        Args:
            call: what a client sent, now or long ago.
            now_ms: the server's clock, which may go back.
        """
        before = self.run
        if before is not None:
            before.tell_time(now_ms)
        answer = self._dispatch(call)
        if self.run is not None:
            if before is None:
                self.run.clocks = (now_ms, 0, now_ms)
            check(self.run)
        return answer

    def _dispatch(self, call: Call) -> Answer:
        if isinstance(call, Open):
            self.run, answer = trainer_calls.open_run(self.run, call)
            return answer
        run = self.run
        if run is None:
            return error("NORUN")
        match call:
            case Numbered():
                return trainer_calls.through_channel(run, call, lambda: trainer_calls.execute(run, call))
            case SetBytes():
                run.results.setdefault(call.attempt, call.data)
            case Requeue():
                sweep(run, call.limit)
            case Trim():
                # The server chooses what it frees: see forgetting.py.
                recovery_calls.raise_floor(run)
            case RecoverBegin():
                return recovery_calls.begin(run, call)
            case _:
                return worker_calls.execute(run, call)
        return {}
