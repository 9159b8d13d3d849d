import re
from pathlib import Path

import pytest

from broker.inspection.transitions import FIELDS, clock, named, sentence
from broker.protocol import scripts


def test_words_have_names() -> None:
    assert named("claim", ["t#0.1.ab", "7", "3.xy", "w~1.n"]) == {
        "attempt": "t#0.1.ab",
        "version": "7",
        "epoch": "3.xy",
        "session": "w~1.n",
    }


def test_the_last_name_takes_the_rest() -> None:
    assert named("dead", ["t", "attempt", "t#0.1.ab", "expired"]) == {"task": "t", "why": "attempt t#0.1.ab expired"}
    assert sentence("dead", ["t", "two", "words"]) == "task t is dead: two words"


@pytest.mark.parametrize(("by", "suffix"), [("-", ""), ("t#0.2.cd", " by t#0.2.cd")])
def test_a_late_result_says_who_has_the_slot_now(by: str, suffix: str) -> None:
    assert sentence("late", ["t#0.1.ab", "superseded", by]) == f"t#0.1.ab came late and was refused: superseded{suffix}"


def test_unknown_kinds_and_missing_words_are_shown_as_they_are() -> None:
    assert named("future", ["a", "b"]) == {"words": "a b"}
    assert named("future", []) == {}
    assert sentence("future", ["a", "b"]) == "a b"
    assert sentence("batch", ["only-a-task"]) == "only-a-task"


@pytest.mark.parametrize("kind", FIELDS)
def test_every_kind_has_a_sentence(kind: str) -> None:
    words = [f"<{name}>" for name in FIELDS[kind]]
    assert all(word in sentence(kind, words) for word in words)
    assert sentence(kind, words) != " ".join(words)


def test_clock_has_milliseconds() -> None:
    assert clock(1_764_000_000_123).endswith(".123")


def test_every_event_of_the_scripts_is_known_and_documented() -> None:
    sources = [path.read_text(encoding="utf-8") for path in scripts.lua_directory().rglob("*.lua")]
    literal = {kind for source in sources for kind in re.findall(r"event\('(\w+)'", source)}
    # two scripts choose the kind: pause or resume, dead or rejected
    emitted = literal | {"pause", "resume", "dead", "rejected"}
    assert emitted == set(FIELDS)
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## Events")[2].partition("\n## ")[0]
    first_column = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", first_column)) == emitted
