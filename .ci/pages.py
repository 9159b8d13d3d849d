"""Measures the pages: lines of at most 100 columns, sentences of at most 30 words.

Tables, code and the output of programs (between marks such as `<!-- numbers -->` and `<!-- /numbers -->`) may be wider.
Sentences in table cells are measured too. Usage: python .ci/pages.py [PAGE ...]; without arguments: every page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

COLUMNS, WORDS = 100, 30
_ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"\s*(```|~~~)")
_WRITTEN = re.compile(r"<!-- (/?)(numbers|measured) -->")
#: Where a block of prose ends: an empty line, a heading, an item, a row.
_BEGINS = re.compile(r"\s*(#{1,6} |[-*] |\d+\. |\||:::)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
#: The end of a sentence.
_SENTENCE = re.compile(r"(?<=[.?!])[*_)\"']*\s+")
_SHORT = re.compile(r"\b(e\.g|i\.e|vs|etc|approx)\.")


def pages() -> list[Path]:
    """All pages of the repository."""
    return sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md"), *_ROOT.glob("benchmarks/*.md")])


def findings(text: str) -> Iterator[tuple[int, str]]:
    """The lines and sentences of a page that are too long: (line number, text)."""
    block: list[str] = []
    at = 0
    for number, line, is_prose in [*_lines(text), (0, "", False)]:
        if is_prose and len(line) > COLUMNS and not line.lstrip().startswith("|") and " " in line.strip()[:COLUMNS]:
            yield number, f"{len(line)} columns"
        if block and (not is_prose or not line.strip() or _BEGINS.match(line)):
            yield from ((at, told) for told in _long(" ".join(block)))
            block = []
        if is_prose and line.strip():
            if not block:
                at = number
            block.append(line.strip())


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Each line with its number, and whether it is prose."""
    fenced = written = False
    for number, line in enumerate(text.splitlines(), 1):
        if mark := _WRITTEN.match(line):
            written = not mark[1]
        is_fence = _FENCE.match(line) is not None
        yield number, line, not (fenced or written or is_fence or mark or line.startswith("    "))
        fenced ^= is_fence


def _long(prose: str) -> Iterator[str]:
    for cell in prose.strip("| ").split(" | "):
        plain = _SHORT.sub(r"\1", re.sub(r"`[^`]*`", "x", _LINK.sub(r"\1", cell)))
        for sentence in _SENTENCE.split(plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > WORDS:
                yield f"{len(words)} words: {' '.join(words[:8])} ..."


def main(names: list[str]) -> int:
    """Prints the lines and sentences that are too long; returns 1 if there are any."""
    found = 0
    for page in [Path(name).resolve() for name in names] or pages():
        for line, told in findings(page.read_text(encoding="utf-8")):
            print(f"{page.relative_to(_ROOT)}:{line}: {told}")  # noqa: T201 - printing is its purpose
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
