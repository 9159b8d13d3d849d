"""The Hypothesis state machine: the actions of the walk as rules, so that Hypothesis can shrink a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from . import actions, recovery_actions, worker_actions
from .progress import finish_everything
from .world import Driver, World


class Drawn:
    """Choices that Hypothesis makes and shrinks."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        """An integer between two bounds, both included."""
        return self._data.draw(st.integers(low, high))


class ProtocolMachine(RuleBasedStateMachine):
    """One run: trainers, workers, operators and a network that delivers late and twice."""

    def __init__(self, make: Callable[[], Driver]) -> None:
        super().__init__()
        self.world = World(make())

    @initialize(data=st.data())
    def create(self, data: Any) -> None:
        """The first trainer."""
        actions.open_run(self.world, Drawn(data))

    @rule(data=st.data())
    def open_run(self, data: Any) -> None:
        """Another trainer takes over, or a config changes."""
        actions.open_run(self.world, Drawn(data))

    @rule(data=st.data())
    def enqueue(self, data: Any) -> None:
        """New tasks."""
        actions.enqueue(self.world, Drawn(data))

    @rule(data=st.data())
    def take(self, data: Any) -> None:
        """Fills and seals a batch."""
        actions.take(self.world, Drawn(data))

    @rule(data=st.data())
    def advance(self, data: Any) -> None:
        """The next version."""
        actions.advance(self.world, Drawn(data))

    @rule(data=st.data())
    def leap(self, data: Any) -> None:
        """Versions without batches."""
        actions.leap(self.world, Drawn(data))

    @rule(data=st.data())
    def save(self, data: Any) -> None:
        """A checkpoint."""
        recovery_actions.save(self.world, Drawn(data))

    @rule(data=st.data())
    def lose_writes(self, data: Any) -> None:
        """The server goes back to what a replica had."""
        drawn = Drawn(data)
        (recovery_actions.remember, recovery_actions.fail_over)[drawn.integer(0, 1)](self.world, drawn)

    @rule(data=st.data())
    def recover(self, data: Any) -> None:
        """A recovery."""
        recovery_actions.recover(self.world, Drawn(data))

    @rule(data=st.data())
    def bring_late(self, data: Any) -> None:
        """Tasks that a recovery named."""
        recovery_actions.bring_late(self.world, Drawn(data))

    @rule(data=st.data())
    def undo_a_part(self, data: Any) -> None:
        """A recovery that undoes a part of a group."""
        recovery_actions.undo_a_part(self.world, Drawn(data))

    @rule(data=st.data())
    def discard(self, data: Any) -> None:
        """The filter."""
        actions.discard(self.world, Drawn(data))

    @rule(data=st.data())
    def operate(self, data: Any) -> None:
        """Cancel, forget, pause, resume, finish, configure, prioritise, retry, readmit."""
        drawn = Drawn(data)
        calls = (
            *(actions.resume, actions.retry, actions.cancel, actions.forget, actions.pause),
            *(actions.finish, actions.configure, actions.readmit, actions.prioritise),
        )
        act = calls[drawn.integer(0, len(calls) - 1)]
        act(self.world, drawn)

    @rule(data=st.data())
    def sweep(self, data: Any) -> None:
        """Takes back what is due, frees what nothing needs, or only reads."""
        drawn = Drawn(data)
        (actions.requeue, actions.trim, actions.read)[drawn.integer(0, 2)](self.world, drawn)

    @rule(data=st.data())
    def pass_time(self, data: Any) -> None:
        """The clock goes on."""
        actions.pass_time(self.world, Drawn(data))

    @rule(data=st.data())
    def deliver_again(self, data: Any) -> None:
        """A copy of an earlier call arrives."""
        actions.deliver_again(self.world, Drawn(data))

    @rule(data=st.data())
    def join(self, data: Any) -> None:
        """A worker starts."""
        worker_actions.join(self.world, Drawn(data))

    @rule(data=st.data())
    def claim(self, data: Any) -> None:
        """A worker asks for work."""
        worker_actions.claim(self.world, Drawn(data))

    @rule(data=st.data())
    def claim_and_submit(self, data: Any) -> None:
        """A worker that works."""
        worker_actions.claim(self.world, Drawn(data))
        worker_actions.submit(self.world, Drawn(data))

    @rule(data=st.data())
    def submit(self, data: Any) -> None:
        """Results and verdicts."""
        worker_actions.submit(self.world, Drawn(data))

    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        """Release, fail, leave, or a submit whose second half is lost."""
        drawn = Drawn(data)
        act = (worker_actions.release, worker_actions.fail, worker_actions.leave, worker_actions.lose_submit)
        act[drawn.integer(0, 3)](self.world, drawn)

    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        """A heartbeat."""
        worker_actions.renew(self.world, Drawn(data))

    @rule(data=st.data())
    def keep_alive(self, data: Any) -> None:
        """Heartbeats of one worker, while the leases of others pass."""
        worker_actions.keep_alive(self.world, Drawn(data))

    def teardown(self) -> None:
        """Faults stop: every task reaches an end."""
        if not self.world.failed and self.world.model.run is not None:
            finish_everything(self.world)
