"""Objects as what JSON holds."""

from __future__ import annotations

from typing import Any


def serialize_value(value: Any) -> Any:
    if isinstance(value, complex):
        return {"type": "complex", "value": [value.real, value.imag]}
    return {"type": "ray_object_ref", "data": repr(value)}


def deserialize_value(value: Any) -> Any:
    return complex(*value["value"])
