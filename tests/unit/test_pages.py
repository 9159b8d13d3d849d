"""The measures of pages, and the names that the reference must have."""

import importlib.util
import re
from pathlib import Path

import pytest

import broker
from broker import errors

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("measured_pages", ROOT / ".ci" / "pages.py")
assert _SPEC
assert _SPEC.loader
pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pages)

LONG_SENTENCE = "word " * 31 + "."
LONG_LINE = "two words, " * 10


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (f"# Title\n\n{LONG_SENTENCE[:80]}\n{LONG_SENTENCE[80:]}\n", [3]),
        (f"- an item\n- {LONG_SENTENCE[:80]}\n  {LONG_SENTENCE[80:]}\n", [2]),
        (f"| a | {LONG_SENTENCE} |\n", [1]),
        (f"Short. [{LONG_SENTENCE[:90]}\n{LONG_SENTENCE[90:]}](there.md)\n", [1]),
        (f"{LONG_LINE}\n", [1]),
        (f"```\n{LONG_LINE}\n{LONG_SENTENCE}\n```\n", []),
        (f"<!-- numbers -->\n{LONG_LINE}\n<!-- /numbers -->\n", []),
        (f"| a | {LONG_LINE} |\n", []),
        (f"Code has no words: `{'x ' * 35}`.\n", []),
        ("word " * 15 + "\n" + "word " * 14 + "word. Another one.\n", []),
    ],
)
def test_a_page_is_told_its_long_lines_and_sentences(page: str, found: list[int]) -> None:
    assert [line for line, _ in pages.findings(page)] == found


def test_the_reference_has_every_public_name() -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    named = set(re.findall(r"^::: ([\w.]+)", reference, re.MULTILINE))
    assert {"broker.errors", "broker.operator", "broker.testing", "broker.aio.Trainer", "broker.aio.Worker"} <= named
    others = {f"broker.{name}" for name in broker.__all__ if not hasattr(errors, name) and name != "__version__"}
    assert others <= named
