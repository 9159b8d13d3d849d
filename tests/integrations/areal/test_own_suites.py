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

from tests.child import ROOT, Ended, finished

CHECKOUTS = [Path(name) for name in os.environ.get("BROKER_TEST_AREAL", "").split(":") if name]
SUITES = ("tests/test_staleness_manager.py", "tests/test_rollout_controller.py")
SECOND = ("tests/v2/inference_service", "tests/experimental/inference_service")
SECOND_SUITES = ("test_controller.py", "test_controller_version.py")


def checkouts() -> list[Any]:
    """Each checkout, or one that is skipped with a word."""
    reason = "BROKER_TEST_AREAL names no checkout of AReaL"
    none = pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")
    return [pytest.param(checkout, id=checkout.name) for checkout in CHECKOUTS] or [none]


def ran_in(checkout: Path, **env: str) -> Ended:
    # `-k`: that one needs a GPU.
    suites = [suite for suite in SUITES if (checkout / suite).exists()]
    suites += [f"{folder}/{name}" for folder in SECOND for name in SECOND_SUITES if (checkout / folder / name).exists()]
    return finished(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "own_suites_plugin"),
        *("-k", "not controller_integration", *suites),
        python=checkout / ".venv/bin/python",
        cwd=checkout,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1", **env},
        within_s=1500,
    )


def failed(ran: Ended) -> set[str]:
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", ran.out, flags=re.MULTILINE))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("checkout", checkouts())
def test_areals_own_suites_pass(checkout: Path, url: str) -> None:
    """All that pass without the broker: a wheel has no tests, and those of the tag of its name may ask for other code."""
    ran = ran_in(checkout, BROKER_URL=url)
    if ran.code != 0:
        assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.out[-5000:] + ran.err[-2000:]
        assert not failed(ran) - failed(ran_in(checkout)), ran.out[-5000:]
    assert not [name for name in failed(ran) if name.startswith(SUITES)]
    passed = re.search(r"(\d+) passed", ran.out)
    made = re.search(r"(\d+) staleness managers were the broker's", ran.out)
    assert passed
    assert made
    assert int(passed[1]) > 90
    assert int(made[1]) > 60
