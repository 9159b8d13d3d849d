import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from broker.cli.plain import to_plain
from broker.values.config import RunConfig


@dataclass(slots=True)
class _Fact:
    name: str
    blob: bytes
    _private: int = 0


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("x", "x"),
        (b"text", "text"),
        (b"\xff\x00", {"base64": "/wA="}),
        (_Fact("a", b"b"), {"name": "a", "blob": "b"}),
        ((1, [2, {3: {4}}]), [1, [2, {"3": [4]}]]),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
    ],
)
def test_values_become_plain_json_types(value: Any, plain: Any) -> None:
    assert to_plain(value) == plain
    json.dumps(to_plain(value))


def test_models_become_objects_by_field() -> None:
    assert to_plain(RunConfig(consumer_batch_size=4))["consumer_batch_size"] == 4


def test_what_json_has_no_word_for_is_shown() -> None:
    assert to_plain(object()).startswith("<object object")
