"""The scripts against the reference model: every answer and the whole state, after every call."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test  # pyright: ignore[reportUnknownVariableType]

from .machine import ProtocolMachine
from .walk import walk
from .world import Driver

#: Steps and seeds of the walks: the fixed ones of `ci`, and the beginning of the many of `deep`.
CI_STEPS, DEEP_STEPS = 8_000, 1_000_000
CI_SEED, DEEP_SEED = 1, 1_000_000

CI = settings(
    max_examples=80,
    stateful_step_count=60,
    derandomize=True,
    database=None,
    deadline=None,
    # A step is a round trip, and what a rule may do depends on the state.
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
    phases=(Phase.generate, Phase.shrink),
)
DEEP = settings(CI, max_examples=3_000, stateful_step_count=150, derandomize=False)


def test_scripts_follow_the_model_on_seeded_walks(make_driver: Callable[[], Driver], deep: bool) -> None:
    steps = DEEP_STEPS if deep else CI_STEPS
    calls, _ = walk(make_driver, DEEP_SEED if deep else CI_SEED, steps)
    assert calls >= steps


def test_scripts_follow_the_model_wherever_hypothesis_goes(make_driver: Callable[[], Driver], deep: bool) -> None:
    class Machine(ProtocolMachine):
        def __init__(self) -> None:
            super().__init__(make_driver)

    run_state_machine_as_test(Machine, settings=DEEP if deep else CI)
