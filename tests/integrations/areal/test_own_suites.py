"""AReaL's own tests pass with the broker's staleness manager in place.

`BROKER_TEST_AREAL` names checkouts of AReaL, with colons between them. Each has an environment `.venv` with AReaL's
dependencies and the broker's in it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.child import ROOT, finished

CHECKOUTS = [Path(name) for name in os.environ.get("BROKER_TEST_AREAL", "").split(":") if name]
SUITES = ("tests/test_staleness_manager.py", "tests/test_rollout_controller.py")
SECOND = ("tests/v2/inference_service", "tests/experimental/inference_service")
SECOND_SUITES = ("test_controller.py", "test_controller_version.py")


def checkouts() -> list[Any]:
    """Each checkout, or one that is skipped with a word."""
    reason = "BROKER_TEST_AREAL names no checkout of AReaL"
    none = pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")
    return [pytest.param(checkout, id=checkout.name) for checkout in CHECKOUTS] or [none]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("checkout", checkouts())
def test_areals_own_suites_pass(checkout: Path, url: str) -> None:
    # `-k`: that one needs a GPU.
    suites = [suite for suite in SUITES if (checkout / suite).exists()]
    suites += [f"{folder}/{name}" for folder in SECOND for name in SECOND_SUITES if (checkout / folder / name).exists()]
    ran = finished(
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "own_suites_plugin",
            "-k",
            "not controller_integration",
            *suites,
        ),
        python=checkout / ".venv/bin/python",
        cwd=checkout,
        env={"BROKER_URL": url, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1"},
        within_s=1500,
    )
    assert ran.code == 0, ran.out[-5000:] + ran.err[-2000:]
    passed = re.search(r"(\d+) passed", ran.out)
    made = re.search(r"(\d+) staleness managers were the broker's", ran.out)
    assert passed
    assert made
    assert int(passed[1]) > 90
    assert int(made[1]) > 60
