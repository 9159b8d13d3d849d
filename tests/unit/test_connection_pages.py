"""The pages agree with the code about URLs and failures."""

import re
from pathlib import Path

import pytest

from broker.connections import failures, url
from broker.connections.failures import KINDS

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
URLS = (DOCS / "reference" / "urls.md").read_text(encoding="utf-8")


def rows_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the last table under a heading."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[-1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_the_page_has_the_table_of_failures():
    told = [[kind.seen, "yes" if kind.passes else "no", f"`{kind.error.__name__}`"] for kind in KINDS]
    assert rows_under(OPERATIONS, "What passes, and what does not") == told


def test_every_kind_of_failure_is_in_the_table():
    kinds = [kind for kind in vars(failures).values() if isinstance(kind, failures.Kind)]
    assert sorted(map(id, kinds)) == sorted(map(id, KINDS))


def test_the_page_has_every_option_of_a_url():
    told = {name for names, *_ in rows_under(URLS, "Options") for name in re.findall(r"`(\w+)`", names)}
    assert told == url.OPTIONS


@pytest.mark.parametrize("example", re.findall(r"For example `([^`]+)`", URLS))
def test_the_example_is_a_url(example: str):
    assert url.parse_url(example).tls is not None
