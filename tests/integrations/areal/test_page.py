"""The page on AReaL is true: its example runs, its imports exist."""

from __future__ import annotations

import inspect
import re
import shlex

import pytest

from broker.integrations.areal import StalenessManager
from broker.integrations.areal.owner_counters import PROMISE_S
from broker.integrations.areal.staleness import ANSWER_S, DEFAULT_LEASE_S
from tests.child import ROOT, finished

PAGE = (ROOT / "docs/integrations/areal.md").read_text(encoding="utf-8")


@pytest.mark.processes
def test_the_example_of_the_page_runs() -> None:
    found = re.search(r"<!-- command: example -->\n```\npython (.+)\n```", PAGE)
    assert found
    ran = finished(*shlex.split(found[1]), env={"PYTHONPATH": str(ROOT)})
    assert ran.code == 0, ran.err
    *steps, last = ran.out.splitlines()
    assert [line.partition(":")[0] for line in steps] == [f"version {n}" for n in range(1, 6)]
    assert re.fullmatch(r"at most [1-6] of 6 ran at once, 0 run now", last)
    assert not ran.err


def test_the_page_names_what_there_is() -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        compile(block, "areal.md", "exec")
    for name in re.findall(r"^\| `(\w+)[(`]", PAGE, flags=re.MULTILINE):
        assert hasattr(StalenessManager, name)
    assert {"url", "run", "owner"} <= inspect.signature(StalenessManager).parameters.keys()
    assert f"`lease_s`, {DEFAULT_LEASE_S:.0f} s" in PAGE
    assert f"for {ANSWER_S} s at most" in PAGE
    assert PROMISE_S == 1.0
    assert "it ends after one second" in PAGE
