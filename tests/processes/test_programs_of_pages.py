"""The programs of docs/filtering.md and docs/agents.md run as the pages show them, and do what the pages say."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

import pytest

from broker.local_server.embedded import EmbeddedServer
from tests.child import ROOT, Child

pytestmark = pytest.mark.processes

PROGRAMS = {
    name: code
    for page in ("filtering.md", "agents.md")
    for name, code in re.findall(
        r"^<!-- program: ([\w ]+) -->\n```python\n(.*?)^```$",
        (ROOT / "docs" / page).read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
}


@pytest.fixture
def url() -> Generator[str]:
    server = EmbeddedServer()
    yield server.url
    server.stop()


def printed(topic: str, url: str, folder: Path) -> list[str]:
    """What a page's trainer prints, beside a worker that ends with the run."""
    made = {
        role: PROGRAMS[f"{topic} {role}"].replace("redis://localhost:6379/0", url) for role in ("worker", "trainer")
    }
    options = {"cwd": folder, "env": {"PYTHONPATH": str(ROOT)}}
    with Child("-c", made["worker"], **options) as worker, Child("-c", made["trainer"], **options) as trainer:
        ended = trainer.end()
        assert ended.code == 0, ended.err
        assert worker.end().code == 0
    return ended.out.splitlines()


def test_the_filter_leaves_twenty_of_sixty_groups_out(url: str, tmp_path: Path) -> None:
    lines = printed("filtering", url, tmp_path)
    assert lines == [*(f"step {step}: 4 groups" for step in range(10)), "filtered: 20"]


def test_agents_of_several_turns_make_five_steps(url: str, tmp_path: Path) -> None:
    lines = printed("agents", url, tmp_path)
    assert len(lines) == 5
    assert all(line.startswith(f"step {step}: 4 groups, at most ") for step, line in enumerate(lines))
