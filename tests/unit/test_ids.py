from __future__ import annotations

import pytest

from broker.protocol.ids import AttemptId, attempt_id, attempt_id_or_none, worker_of

LONG = "9" * 17


@pytest.mark.parametrize(
    ("text", "parts"),
    [("t#0.1.aa", ("t", 0, 1, "aa")), ("e2/gsm8k/17#3.12.0f3c", ("e2/gsm8k/17", 3, 12, "0f3c"))],
)
def test_an_attempt_id_is_taken_apart(text: str, parts: tuple[str, int, int, str]) -> None:
    assert attempt_id(text) == attempt_id_or_none(text) == AttemptId(*parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t",
        "t#0",
        "t#0.1",
        "t#x.1.a",
        "a b#0.1.c",
        "t#0.1.c\n",
        "t#0.1.-",
        "t#\u0663.1.a",
        f"t#0.{LONG}.a",
        "t#0.1.a_b",
    ],
)
def test_what_is_no_attempt_id_is_not_taken_for_one(text: str) -> None:
    assert attempt_id_or_none(text) is None
    with pytest.raises(ValueError, match="not an attempt's id"):
        attempt_id(text)


def test_a_session_names_its_worker() -> None:
    assert worker_of("host-1~7.0f3c") == "host-1"
    assert worker_of("") == ""
