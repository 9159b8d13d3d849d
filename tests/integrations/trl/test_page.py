"""The programs of the page are whole, and its links work."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from broker.integrations import trl

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "integrations" / "trl.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_programs_of_the_page_import_what_there_is() -> None:
    assert len(PROGRAMS) == 2
    for program in PROGRAMS:
        (names,) = (
            {name.name for name in node.names}
            for node in ast.walk(ast.parse(program))
            if isinstance(node, ast.ImportFrom) and node.module == "broker.integrations.trl"
        )
        assert names <= set(trl.__all__)


def test_the_links_of_the_page_work() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        if not link.startswith("https://"):
            assert (REPOSITORY / "docs" / "integrations" / link).exists(), link
