"""What the page shows is true, and the example runs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from tests.integrations.torch.crew import working
from tests.threads import InThread
from tests.waiting import run_exists, wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "integrations" / "torch.md").read_text(encoding="utf-8")
(LOOP,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


# Both run in this process: importing PyTorch takes longer than all the rest.


def test_the_loop_of_the_page_trains(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile(LOOP.replace("redis://localhost:6379/0", url), "the loop of the page", "exec")
    loop = InThread(lambda: exec(code, {}))  # noqa: S102 - the page's own code
    wait_until(lambda: run_exists(url, "math-7b"), "the run exists", 30.0)
    with working(url, "math-7b"):
        loop.result()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [f"step {step}: 8 samples" for step in range(3)]
    assert all(line.endswith("tokens, 0.0") for line in lines)


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["torch_loop.py"])
    runpy.run_path(str(REPOSITORY / "examples" / "torch_loop.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"step {step}" for step in range(8)]


def test_the_links_of_the_page_work() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (REPOSITORY / "docs" / "integrations" / link).exists(), link
