"""What travels between AReaL's controller and its workers, as values that the codec takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np

from broker.errors import CodecError

#: The key of a dict that stands for something else: `tensor`, or `areal` for AReaL's own form.
_KIND = "areal:kind"
#: AReaL reads these with pickle, which runs what it reads.
_PICKLED = "ray_object_ref"


def packed(value: Any) -> Any:
    """The value with each tensor as its bytes, and each object of AReaL in AReaL's own form for its calls.

    Raises:
        CodecError: it holds a reference of Ray, which only that Ray knows.
    """
    torch = sys.modules.get("torch")  # who gives a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        tensor: Any = value
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        kind = str(tensor.dtype).rpartition(".")[2]
        return {_KIND: "tensor", "type": kind, "shape": list(tensor.shape), "bytes": flat.view(torch.uint8).numpy()}
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray):
        return value  # pyright: ignore[reportUnknownVariableType] - an array of any type
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {key: packed(item) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [packed(item) for item in cast("Sequence[Any]", value)]
    made = import_module("areal.infra.rpc.serialization").serialize_value(value)
    _refuse_pickles(made)
    return {_KIND: "areal", "value": made}


def unpacked(value: Any) -> Any:
    """What was packed; tuples have become lists.

    Raises:
        CodecError: it holds a reference of Ray.
    """
    if isinstance(value, np.ndarray):
        return cast("np.ndarray[Any, Any]", value).copy()  # the codec's own cannot be changed
    if isinstance(value, list):
        return [unpacked(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[Any, Any]", value)
    if mapping.get(_KIND) == "tensor":
        torch = import_module("torch")
        flat = torch.from_numpy(mapping["bytes"].copy())
        return flat.view(getattr(torch, mapping["type"])).reshape(mapping["shape"])
    if mapping.get(_KIND) == "areal":
        _refuse_pickles(mapping["value"])
        return import_module("areal.infra.rpc.serialization").deserialize_value(mapping["value"])
    return {key: unpacked(item) for key, item in mapping.items()}


def _refuse_pickles(value: Any) -> None:
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)
        if mapping.get("type") == _PICKLED:
            raise CodecError.of_value("a reference of Ray is not stored: give the workflow the value itself")
        value = list(mapping.values())
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            _refuse_pickles(item)
