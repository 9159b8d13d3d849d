from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadName
from broker.values.names import MAX_NAME_CHARS, check_name

ALPHABET = string.ascii_letters + string.digits + "._:/@+-"


@given(st.text(ALPHABET, min_size=1, max_size=MAX_NAME_CHARS))
def test_names_of_the_alphabet_are_returned_unchanged(name: str) -> None:
    assert check_name("task", name) == name


@given(st.text())
def test_a_name_is_accepted_exactly_if_its_characters_and_length_are(name: str) -> None:
    good = 1 <= len(name) <= MAX_NAME_CHARS and set(name) <= set(ALPHABET)
    if good:
        check_name("run", name)
    else:
        with pytest.raises(BadName):
            check_name("run", name)


@pytest.mark.parametrize("character", ["\n", " ", "#", "{", "}", "\0", "é", "٣", "\u200b", "\ud800"])
def test_a_forbidden_character_is_named_with_its_place(character: str) -> None:
    with pytest.raises(BadName) as caught:
        check_name("run", f"ab{character}")
    assert f"holds {character!a} at position 2" in str(caught.value)
    assert caught.value.fields["kind"] == "run"
    str(caught.value).encode()


def test_what_is_wrong_is_said() -> None:
    cases: list[tuple[object, str]] = [
        ("", "it is empty"),
        ("x" * 201, "too long, 201 characters where 200 are allowed"),
        (5, "5 cannot be the name of a worker: it is of type int"),
        (b"x", "type bytes"),
        (None, "type NoneType"),
        (["x"] * 10_000, "type list"),
        (10**10_000, "type int"),
    ]
    for value, words in cases:
        with pytest.raises(BadName) as caught:
            check_name("worker", value)
        assert words in str(caught.value)
        assert "1 to 200 characters" in str(caught.value)
        assert len(str(caught.value)) < 300
