"""Runs cases interleaved: every round runs each case once, so that a slow minute of the machine affects all cases."""

# ruff: noqa: T201 - printing is its purpose

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from benchmarks.cases import Case, NotRunError, Outcome, Repetition
from benchmarks.lab import Lab


def run_rounds(lab: Lab, cases: Sequence[Case], repeat: int) -> list[Outcome]:
    """Runs all repetitions of all cases, and samples the reference before and after each."""
    outcomes = [Outcome(case) for case in cases]
    for number in range(repeat):
        for outcome in outcomes:
            if not outcome.not_run and (outcome.case.repeat is None or number < outcome.case.repeat):
                _once(lab, outcome, number)
    return outcomes


def _once(lab: Lab, outcome: Outcome, number: int) -> None:
    case = outcome.case
    if sys.stderr.isatty():
        print(f"\r\033[K{number + 1} {case.label}", end="", file=sys.stderr, flush=True)
    if case.clean:
        lab.clean()
    started = time.perf_counter()
    before = lab.reference()
    try:
        values = case.run()
    except NotRunError as reason:
        outcome.not_run = str(reason)
    except Exception as error:  # noqa: BLE001 - a contender that fails must not end the others
        outcome.not_run = f"failed: {type(error).__name__}: {error}"
    else:
        after = lab.reference()
        low, high = sorted((before, after))
        outcome.repetitions.append(Repetition(number, values, (before + after) / 2, high / low))
    outcome.seconds += time.perf_counter() - started
