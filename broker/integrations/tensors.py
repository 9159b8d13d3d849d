"""Ragged arrays of rollouts as PyTorch tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np

from broker.errors import BadArgument
from broker.values.rollout import Rollout

# Not an import statement: types are checked also without PyTorch.
try:
    torch: Any = import_module("torch")
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "broker.integrations.torch needs PyTorch; install it as https://pytorch.org says", name="torch"
    ) from error


def pad(
    arrays: Sequence[Any], value: float = 0, *, length: int | None = None, side: Literal["right", "left"] = "right"
) -> tuple[Any, Any]:
    """Ragged arrays as one tensor.

    Args:
        arrays: N arrays or lists of shape [t, ...]; t may differ, the other dimensions may not.
        value: fills the missing items.
        length: T; None: the longest t. Longer arrays are refused.
        side: the side to fill.

    Returns:
        A tensor [N, T, ...], and a bool tensor [N, T] that is True for data.

    Raises:
        BadArgument: an array is too long, or of another shape or kind than the first.
    """
    rows = [_numbers(array) for array in arrays]
    longest = max((len(row) for row in rows), default=0)
    width = longest if length is None else length
    if longest > width:
        raise BadArgument(argument="length", given=width, expected=f"at least {longest}, the longest of the arrays")
    rest = rows[0].shape[1:] if rows else ()
    if any(row.shape[1:] != rest for row in rows):
        raise BadArgument(argument="arrays", given="several shapes", expected=f"[t, ...] with {list(rest)} after t")
    kind = _common_type(rows)
    padded = np.full((len(rows), width, *rest), value, dtype=kind)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        padded[i, at] = row
        mask[i, at] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def pack(arrays: Sequence[Any]) -> tuple[Any, Any]:
    """Ragged arrays end to end, in the form of kernels for variable lengths.

    Args:
        arrays: N arrays or lists of shape [t, ...].

    Returns:
        A tensor [sum of t, ...] and an int32 tensor [N + 1] of offsets: array i is values[offsets[i]:offsets[i + 1]].
    """
    rows = [_numbers(array) for array in arrays]
    values = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return torch.from_numpy(values), torch.from_numpy(offsets)


def collate(
    rollouts: Sequence[Rollout], *, pad_value: float | Mapping[str, float] = 0, side: Literal["right", "left"] = "right"
) -> dict[str, Any]:
    """Rollouts as tensors; give it to a `DataLoader` as `collate_fn`, or call it.

    The N rows are the samples of all rollouts. Their results are dicts with the same fields.

    Args:
        rollouts: an item of the dataset.
        pad_value: fills ragged fields; or a mapping by field name (0 for fields that are not in it).
        side: the side to fill.

    Returns:
        For each field of arrays or lists of numbers, a tensor [N, T, ...], and a mask, `<field>_mask`. For numbers a
        tensor [N]; for all other fields a list. Also `task` (N ids), `group` (int64 [N]: the rollout that the sample
        belongs to), `version` and `staleness` (int64 [N]).

    Raises:
        BadArgument: a result is not a dict, or has other fields than the first.
    """
    samples = [(group, rollout, sample) for group, rollout in enumerate(rollouts) for sample in rollout.samples]
    results: list[Mapping[str, Any]] = []
    for _, _, sample in samples:
        result: object = sample.result
        if not isinstance(result, Mapping):
            raise BadArgument(argument="result", given=type(result).__name__, expected="a dict of fields")
        results.append(cast("Mapping[str, Any]", result))
        if results[-1].keys() != results[0].keys():
            given = f"{sorted(results[-1])} in {sample.attempt_id}"
            raise BadArgument(argument="result", given=given, expected=f"{sorted(results[0])}")
    columns: dict[str, Any] = {}
    for name in results[0] if results else ():
        column = [result[name] for result in results]
        if all(_is_ragged(value) for value in column):
            fill = pad_value.get(name, 0) if isinstance(pad_value, Mapping) else pad_value
            columns[name], columns[f"{name}_mask"] = pad(column, fill, side=side)
        elif all(isinstance(value, (bool, int, float)) for value in column):
            columns[name] = torch.from_numpy(_numbers(column))
        else:
            columns[name] = column
    return {
        **columns,
        "task": [rollout.task for _, rollout, _ in samples],
        "group": torch.tensor([group for group, _, _ in samples], dtype=torch.int64),
        "version": torch.tensor([sample.version for _, _, sample in samples], dtype=torch.int64),
        "staleness": torch.tensor([rollout.step - sample.version for _, rollout, sample in samples], dtype=torch.int64),
    }


def _is_ragged(value: object) -> bool:
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        return array.ndim > 0 and array.dtype.kind in "biuf"
    if not isinstance(value, list):
        return False
    return all(isinstance(item, (bool, int, float)) for item in cast("list[object]", value))


def _common_type(rows: Sequence[np.ndarray[Any, Any]]) -> np.dtype[Any]:
    """The common type of all rows. Empty rows do not count, and int64 with float32 does not make float64."""
    kinds = {row.dtype for row in rows if row.size}
    if not kinds:
        return rows[0].dtype if rows else np.dtype(np.int64)
    common = np.result_type(*kinds)
    return np.dtype(np.float32) if common == np.float64 and common not in kinds else common


#: PyTorch's types in place of unsigned types that it cannot calculate with.
_SIGNED: dict[str, type[Any]] = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    """An array of one of PyTorch's types. Python's floats become float32, an empty list int64."""
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        return array.astype(_SIGNED[array.dtype.name]) if array.dtype.name in _SIGNED else array
    array = np.asarray(value)
    if array.dtype == np.float64:
        return array.astype(np.float32) if array.size else array.astype(np.int64)
    return array
