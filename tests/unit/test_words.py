import pytest

from broker.errors.words import count, duration, listing


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (349_200, "4 d 1 h"),
        (-3, "-3.0 s"),
    ],
)
def test_durations_have_one_or_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_agree_with_their_noun() -> None:
    assert count(1, "task") == "1 task"
    assert count(0, "task") == "0 tasks"
    assert count(12_000, "batch", "batches") == "12,000 batches"


def test_listings_read_as_sentences() -> None:
    assert listing([]) == ""
    assert listing(["a"]) == "a"
    assert listing(["a", "b"]) == "a and b"
    assert listing(["a", "b", "c"], "or") == "a, b or c"
