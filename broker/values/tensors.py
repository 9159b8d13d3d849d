"""Tensors of PyTorch and arrays of JAX as the NumPy arrays that are stored of them. It imports neither library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from broker.errors import CodecError

if TYPE_CHECKING:
    import numpy as np


def to_numpy(value: Any) -> np.ndarray[Any, Any] | bool | int | float | None:
    """A tensor in the memory of the host, without what its library knows besides its numbers.

    Args:
        value: anything.

    Returns:
        Of a tensor with dimensions the array, which may share its memory; of one without its number, as NumPy's scalars
        are stored; None of what is no tensor.

    Raises:
        CodecError: there is no such array: a dtype that NumPy does not have, a sparse layout, no data.
    """
    # Whoever gives one has imported its library.
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
    except Exception as error:  # the libraries raise many kinds
        kind = str(tensor.dtype)
        if "float" in kind and kind.rpartition(".")[2] not in {"float16", "float32", "float64"}:
            raise _no_such_type(kind, as_float) from error
        told = str(error).partition("\n")[0]
        raise CodecError.of_value(
            f"a tensor of {library} ({kind} on {tensor.device}) cannot be made a NumPy array: {told}"
        ) from error
    # JAX brings types of its own to NumPy, which nobody else would read.
    if array.dtype.kind == "V":
        raise _no_such_type(str(tensor.dtype), as_float)
    return array


def _no_such_type(kind: str, as_float: str) -> CodecError:
    return CodecError.of_value(f"tensors of {kind} are not stored, for NumPy has no such type: {as_float}")
