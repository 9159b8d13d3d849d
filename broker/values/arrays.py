"""Describes NumPy arrays within a stored value, and finds them again behind it.

A description is the length of the dtype's name (u8), that name (`<i4`), and each dimension (u64, little-endian). It is
the data of a msgpack extension type; the contents stand behind the msgpack, in the same order, each at the next
multiple of 16 within the body. NumPy is imported only when a value holds arrays.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, cast

from broker.errors import CodecError
from broker.values.tensors import to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

#: Codes of the msgpack extension types.
ARRAY, SCALAR = 1, 2
#: Multiple on which contents begin: CPython's `bytes` begin on such an address, so that decoded arrays are aligned.
ALIGNMENT: Final = 16
_MAX_DIMENSIONS: Final = 32

_NUMBERS: Final = frozenset(
    {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"}
)
# With a step of 0 NumPy would divide by 0.
_TIMES: Final = re.compile(r"<[Mm]8(\[([1-9][0-9]{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?")

#: np.ndarray, a dtype, its size in bytes, and whether it is bool.
_Found = tuple["Callable[..., Any]", Any, int, bool]
#: The beginning of a description by dtype, and the reverse; number types only, so that both tables stay small.
_PREFIXES: Final[dict[Any, bytes]] = {}
_DTYPES: Final[dict[bytes, _Found]] = {}
_SHAPES: Final = tuple(struct.Struct(f"<{dimensions}Q") for dimensions in range(_MAX_DIMENSIONS + 1))


def describe(value: Any) -> tuple[int, bytes, np.ndarray[Any, Any]] | bool | int | float | None:
    """Turns a value that msgpack does not know into one to store.

    Returns:
        For a NumPy bool, integer or float, Python's. For another scalar, an array or a tensor: the extension type, the
        description, and the contents as a C-contiguous, little-endian array. None for anything else.

    Raises:
        CodecError: arrays of this dtype are not stored.
    """
    np = sys.modules.get("numpy")  # a caller that gives an array has imported NumPy
    if np is None or not isinstance(value, (np.ndarray, np.generic)):
        converted = to_numpy(value)
        if converted is None or isinstance(converted, (bool, int, float)):
            return converted
        import numpy as np

        value = converted
    kind = cast("type[object]", type(value))
    if kind is np.ndarray or kind is np.memmap:
        code, array = ARRAY, cast("np.ndarray[Any, Any]", value)
    elif isinstance(value, np.generic):
        scalar: Any = value
        if scalar.dtype.kind in "biuf" and scalar.dtype.itemsize <= 8:
            return scalar.item()
        code, array = SCALAR, np.asarray(scalar)
    else:
        return None
    dtype = array.dtype
    prefix = _PREFIXES.get(dtype)
    if prefix is None:
        if dtype.str[0] == ">":
            array = array.astype(dtype.newbyteorder("<"))
        prefix = _prefix(array.dtype)
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    if array.ndim > _MAX_DIMENSIONS:
        raise CodecError.of_value(f"an array has {array.ndim} dimensions, {_MAX_DIMENSIONS} are allowed")
    return code, prefix + _SHAPES[array.ndim].pack(*array.shape), array


class ArrayReader:
    """Hands out arrays in the order of their descriptions.

    Args:
        data: the bytes that hold the contents.
        origin: position in `data` that alignment is counted from.
        position: where the contents begin; after the last array, where they end.
    """

    __slots__ = ("_data", "_origin", "position")

    def __init__(self, data: bytes, origin: int, position: int) -> None:
        self._data = data
        self._origin = origin
        self.position = position

    def read(self, code: int, description: bytes) -> Any:
        """The next array, a read-only view of the data, or the next scalar.

        Raises:
            CodecError: the description is malformed, or announces more bytes than there are.
        """
        name_end = 1 + description[0]
        make, dtype, item_bytes, is_bool = _DTYPES.get(description[:name_end]) or _read_dtype(description[:name_end])
        dimensions, odd = divmod(len(description) - name_end, 8)
        if odd or not 0 <= dimensions <= (_MAX_DIMENSIONS if code == ARRAY else 0):
            raise CodecError.of_bytes("they describe an array with a wrong number of dimensions")
        shape = _SHAPES[dimensions].unpack_from(description, name_end)
        # Python's integers do not overflow.
        size = math.prod(shape) * item_bytes
        start = self.position + (self._origin - self.position) % ALIGNMENT
        self.position = start + size
        if self.position > len(self._data):
            raise CodecError.of_bytes(f"they announce an array of {size} bytes and end before it does")
        if not size:
            array = make(shape, dtype)
            array.flags.writeable = False
            return array
        array = make(shape, dtype, self._data, start)
        # NumPy counts and compares wrongly when a bool array has other bytes than 0 and 1.
        if is_bool and array.view("u1").max() > 1:
            raise CodecError.of_bytes("they hold a bool array with other values than 0 and 1")
        return array if code == ARRAY else array[()]


def _prefix(dtype: np.dtype[Any]) -> bytes:
    name = dtype.str
    if name not in _NUMBERS and not _TIMES.fullmatch(name):
        raise CodecError.of_value(
            f"arrays of dtype {dtype} are not stored, only bool, integers, floats, complex numbers and datetimes of "
            "the usual sizes: convert it with astype() or view(), or use lists"
        )
    prefix = bytes([len(name)]) + name.encode()
    if name in _NUMBERS:
        _PREFIXES[dtype] = prefix
    return prefix


def _read_dtype(prefix: bytes) -> _Found:
    try:
        import numpy as np
    except ImportError:
        raise CodecError.of_bytes("they hold NumPy arrays, and NumPy is not installed: pip install numpy") from None
    name = prefix[1:].decode("ascii")
    if name not in _NUMBERS and not _TIMES.fullmatch(name):
        raise CodecError.of_bytes(f"they hold an array of dtype {name[:40]!r}, which is not allowed")
    dtype = np.dtype(name)
    found = (np.ndarray, dtype, dtype.itemsize, dtype.kind == "b")
    if name in _NUMBERS:
        _DTYPES[prefix] = found
    return found
