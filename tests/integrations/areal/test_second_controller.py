"""AReaL's second controller imports its manager when it starts, and gets the broker's.

Where `BROKER_TEST_AREAL` names checkouts of AReaL (see `test_own_suites.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.child import ROOT, finished
from tests.integrations.areal.test_own_suites import checkouts


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("checkout", checkouts())
def test_the_second_controller_counts_in_the_run_and_leaves_evaluation_alone(checkout: Path, url: str) -> None:
    ran = finished(
        *("-m", "second_controller_child", url, "second"),
        python=checkout / ".venv/bin/python",
        cwd=checkout,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1"},
    )
    assert ran.code == 0, ran.out[-3000:] + ran.err[-3000:]
    (told,) = [json.loads(line[1:]) for line in ran.out.splitlines() if line.startswith("@")]
    assert told == {"run": "second", "before": 6, "capacity": 6, "attached": True, "evaluation": False, "closed": True}
