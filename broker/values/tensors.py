"""Turns tensors of PyTorch and arrays of JAX into NumPy arrays, to be stored. Imports neither library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from broker.errors import CodecError

if TYPE_CHECKING:
    import numpy as np

#: The dtypes of both PyTorch and NumPy: a tensor of another one is refused for its dtype.
_IN_NUMPY = frozenset(
    f"{kind}{bits}"
    for kind, sizes in (
        ("float", (16, 32, 64)),
        ("int", (8, 16, 32, 64)),
        ("uint", (8, 16, 32, 64)),
        ("complex", (64, 128)),
        ("bool", ("",)),
    )
    for bits in sizes
)


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
        return _converted(tensor, lambda: tensor.numpy(force=True), "PyTorch", _torch_has(str(tensor.dtype)))
    if jax is not None and isinstance(value, getattr(jax, "Array", ())):
        array: Any = value
        return _converted(array, array.__array__, "JAX", "send its .astype('float32')")
    return None


def _torch_has(kind: str) -> str:
    """What to send instead of a tensor whose dtype NumPy does not have."""
    name = kind.removeprefix("torch.")
    if name.startswith(("bfloat", "float8")):
        return "send its .float()"
    if name == "complex32":
        return "send its .to(torch.complex64)"
    if name.startswith(("qint", "quint")):
        return "send its .dequantize()"
    return "send its bytes, .view(torch.uint8)"  # PyTorch cannot compute with the others either


def _converted(tensor: Any, to_array: Any, library: str, instead: str) -> Any:
    try:
        if tensor.ndim == 0 and "complex" not in str(tensor.dtype):
            return tensor.item()
        array = to_array()
    except Exception as error:  # the libraries raise many types of errors
        kind = str(tensor.dtype)
        if kind.rpartition(".")[2] not in _IN_NUMPY:
            raise _no_such_type(kind, instead) from error
        told = str(error).partition("\n")[0]
        raise CodecError.of_value(
            f"a tensor of {library} ({kind} on {tensor.device}) cannot be made a NumPy array: {told}"
        ) from error
    # JAX adds its own types to NumPy, which a reader without JAX could not read.
    if array.dtype.kind == "V":
        raise _no_such_type(str(tensor.dtype), instead)
    return array


def _no_such_type(kind: str, instead: str) -> CodecError:
    return CodecError.of_value(f"tensors of {kind} are not stored, for NumPy has no such type: {instead}")
