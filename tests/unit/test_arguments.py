"""Values that are wrong are shown in messages, shortly."""

from __future__ import annotations

import pytest

from broker.values.arguments import shown


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (-1, "-1"),
        (True, "True"),
        (10**30, "a number of 100 bits"),
        (-(10**30), "a number of 100 bits"),
        ("x" * 10_000, "'xxx"),
        ([1], "a value of type list"),
    ],
)
def test_what_was_given_is_shown_shortly(given: object, says: str) -> None:
    assert shown(given).startswith(says)
    assert len(shown(given)) < 300
