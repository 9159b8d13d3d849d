"""Turns tensors of PyTorch and arrays of JAX into NumPy arrays, to be stored. Imports neither library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from broker.errors import CodecError

if TYPE_CHECKING:
    import numpy as np


def to_numpy(value: Any) -> np.ndarray[Any, Any] | bool | int | float | None:
    """The numbers of a tensor in the host's memory.

    Args:
        value: anything.

    Returns:
        For a tensor with dimensions, an array that may share its memory; without dimensions, its number, as NumPy's
        scalars are stored. None for other values.

    Raises:
        CodecError: NumPy has no such array: an unknown dtype, a sparse layout, no data.
    """
    # A caller that gives a tensor has imported its library.
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        tensor: Any = value
        return _converted(tensor, lambda: tensor.numpy(force=True), "PyTorch", "send its .float()")
    if jax is not None and isinstance(value, getattr(jax, "Array", ())):
        array: Any = value
        return _converted(array, array.__array__, "JAX", "send its .astype('float32')")
    return None


def _converted(tensor: Any, to_array: Any, library: str, as_float: str) -> Any:
    try:
        if tensor.ndim == 0 and "complex" not in str(tensor.dtype):
            return tensor.item()
        array = to_array()
    except Exception as error:  # the libraries raise many types of errors
        kind = str(tensor.dtype)
        if "float" in kind and kind.rpartition(".")[2] not in {"float16", "float32", "float64"}:
            raise _no_such_type(kind, as_float) from error
        told = str(error).partition("\n")[0]
        raise CodecError.of_value(
            f"a tensor of {library} ({kind} on {tensor.device}) cannot be made a NumPy array: {told}"
        ) from error
    # JAX adds its own types to NumPy, which a reader without JAX could not read.
    if array.dtype.kind == "V":
        raise _no_such_type(str(tensor.dtype), as_float)
    return array


def _no_such_type(kind: str, as_float: str) -> CodecError:
    return CodecError.of_value(f"tensors of {kind} are not stored, for NumPy has no such type: {as_float}")
