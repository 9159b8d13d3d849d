"""Values of the broker as plain JSON types, for `--json`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, cast


def to_plain(value: Any) -> Any:
    """Reduce a value to dicts, lists, strings, numbers, booleans and None.

    Models and dataclasses become objects by field. Bytes become their UTF-8 text, or `{"base64": ...}` if they are no
    text. Values without a JSON type become their `repr`.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, bytes | bytearray):
        return _bytes_to_plain(bytes(value))
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in fields(value)
            if not field.name.startswith("_")
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence | AbstractSet):
        return [to_plain(item) for item in cast("Sequence[Any]", value)]
    return _foreign_to_plain(value)


def _bytes_to_plain(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _foreign_to_plain(value: Any) -> Any:
    # models of pydantic, arrays and scalars of NumPy, without importing either
    for name in ("model_dump", "tolist"):
        reduce = getattr(value, name, None)
        if callable(reduce):
            return to_plain(reduce())
    return repr(value)
