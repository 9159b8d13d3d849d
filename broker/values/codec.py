"""Values to bytes and back: msgpack with NumPy arrays, zstd where it pays, and plain `bytes` untouched. No pickle.

A stored value is one of

    anything that does not begin with C1       `bytes` of the user's, as they are (C1 begins no msgpack, JSON or UTF-8)
    C1 00, bytes                               `bytes` of the user's that begin with C1 themselves
    C1 01 00 00, u32 n, u64 size, body         an object: n bytes of msgpack, then the contents of its arrays
    C1 02 00 00, u32 n, u64 size, zstd(body)   the same, compressed

with little-endian numbers; `size` is that of the body before compression. In the msgpack an array is the extension type
1, a NumPy scalar 2; `broker.values.arrays` describes their data. The contents follow behind the msgpack. They are
copied once when written, and not at all when read: decoded arrays are read-only views. To change an array in place,
take its `.copy()`.

Tuples come back as lists, NumPy bools, integers and floats as Python's. A tensor of PyTorch or an array of JAX comes
back as a NumPy array, detached and copied from its device; one without dimensions comes back as a number.

For any bytes, `decode` returns a value within its limits or raises `CodecError`: it adds up lengths before it allocates
memory for them.
"""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack

from broker.errors import CodecError
from broker.values import arrays, compression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Bodies up to this size, in bytes, are not compressed: a common rollout (5,000 tokens, 55 kB) is sent in less time.
COMPRESS_ABOVE_BYTES: Final = 64 * 1024
#: A packer is not kept for the next value if its buffer has grown beyond this, in bytes.
_KEPT_BUFFER_BYTES: Final = 1024**2

_MARK: Final = b"\xc1"
_RAW, _PLAIN, _COMPRESSED = 0, 1, 2
_HEADER: Final = struct.Struct("<BBHIQ")

_LEAVES: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes, bytearray, memoryview})
_KEYS: Final[frozenset[type]] = frozenset({str, int, bytes})

# msgpack declares no types.
_unpackb = cast("Callable[..., Any]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]
_make_packer = cast("Callable[..., Any]", msgpack.Packer)  # pyright: ignore[reportUnknownMemberType]
_make_extension = cast("Callable[[int, bytes], Any]", msgpack.ExtType)
_FOREIGN: Final = cast("tuple[type, ...]", (msgpack.ExtType, msgpack.Timestamp))
_LOOKED_INTO: Final = (dict, list, tuple, *_FOREIGN)
#: By number of bytes.
_PADDING: Final = tuple(bytes(n) for n in range(arrays.ALIGNMENT))


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Limits of a value, the same for writing and reading, so that every written value can be read.

    Args:
        max_bytes: size of the body before compression.
        max_elements: items of all lists and dicts together (the items of an array are not counted: use arrays).
        max_depth: lists and dicts within each other.
    """

    max_bytes: int = 1024**3
    max_elements: int = 1_000_000
    max_depth: int = 64


DEFAULT_LIMITS: Final = CodecLimits()


def encode(
    value: Any, *, compress_above: int | None = COMPRESS_ABOVE_BYTES, limits: CodecLimits = DEFAULT_LIMITS
) -> bytes:
    """Turn a value into bytes.

    Args:
        value: `bytes` (stored untouched, and not copied), or None, bool, int (64 bit), float, str, bytes, NumPy arrays
            and scalars (bool, numbers, datetimes), tensors of PyTorch and arrays of JAX (of the types that NumPy has:
            not bfloat16), and lists, tuples and dicts of them; keys are str, int or bytes.
        compress_above: size of the body in bytes above which zstd is tried, if it is installed; None: never.
        limits: the limits of `decode`; a value beyond them is refused.

    Raises:
        CodecError: the value holds another type, or too much; says where.
    """
    if type(value) is bytes and not value.startswith(_MARK):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = value if type(value) is bytes else bytes(value)  # pyright: ignore[reportUnknownArgumentType] - of any format
        return _MARK + bytes([_RAW]) + raw if raw.startswith(_MARK) else raw
    _count_items(value, limits.max_depth, limits.max_elements)
    # Taken out, not borrowed: a signal handler in between gets another one, and one that failed is not kept.
    packer, _threads.packer = _threads.packer or _Packer(), None
    try:
        skeleton = packer.pack(value)
    except Exception as error:  # noqa: BLE001 - msgpack raises five kinds, and a stranger's object any
        raise _refused(value, error) from None
    parts, body_bytes = _lay_out(skeleton, packer.contents)
    if len(skeleton) < _KEPT_BUFFER_BYTES:
        packer.contents.clear()
        _threads.packer = packer
    if body_bytes > limits.max_bytes or len(skeleton) >= 2**32:
        raise CodecError.of_value(f"it takes {body_bytes} bytes, {limits.max_bytes} are allowed")
    parts[0] = _HEADER.pack(_MARK[0], _PLAIN, 0, len(skeleton), body_bytes)
    frame = b"".join(parts)
    if compress_above is not None and body_bytes > compress_above:
        compressed = compression.compress(memoryview(frame)[_HEADER.size :])
        if compressed is not None:
            return _HEADER.pack(_MARK[0], _COMPRESSED, 0, len(skeleton), body_bytes) + compressed
    return frame


def decode(data: bytes, limits: CodecLimits = DEFAULT_LIMITS) -> Any:
    """Turn bytes back into the value that `encode` was given.

    Args:
        data: what `encode` returned. Arrays in the value are read-only views of these bytes, or of the decompressed
            ones, and keep all of them in memory: copy an array to change it, or to keep it alone.
        limits: a value beyond them is refused before memory is spent on it. Plain bytes are only as large as `data`.

    Raises:
        CodecError: the bytes are cut off, or not written by `encode`, or hold more than the limits allow, or are
            compressed and zstandard is not installed.
    """
    if not data.startswith(_MARK):
        return data
    try:
        return _decode_frame(data, limits)
    except CodecError:
        raise
    except Exception as error:
        # Hostile bytes make msgpack, NumPy and zstandard raise errors of many types.
        raise CodecError.of_bytes(f"they raise {type(error).__name__} {error}".rstrip()) from error


def _decode_frame(data: bytes, limits: CodecLimits) -> Any:
    kind = data[1] if len(data) > 1 else -1
    if kind == _RAW:
        return data[2:]
    if kind not in {_PLAIN, _COMPRESSED} or len(data) < _HEADER.size:
        raise CodecError.of_bytes("their header is cut off or of a kind that this version does not know")
    _, _, zero, skeleton_bytes, body_bytes = _HEADER.unpack_from(data)
    if body_bytes > limits.max_bytes:
        raise CodecError.of_bytes(f"they hold {body_bytes} bytes, {limits.max_bytes} are allowed")
    start = _HEADER.size
    if kind == _COMPRESSED:
        data, start = compression.decompress(memoryview(data)[_HEADER.size :], body_bytes), 0
    if zero or len(data) - start != body_bytes or skeleton_bytes > body_bytes:
        raise CodecError.of_bytes(f"{len(data) - start} bytes follow the header where it announces {body_bytes}")
    containers = _check_lengths(data, start, start + skeleton_bytes, limits)
    reader = arrays.ArrayReader(data, start, start + skeleton_bytes)
    most = min(limits.max_elements, skeleton_bytes)
    value = _unpackb(
        memoryview(data)[start : start + skeleton_bytes],
        ext_hook=reader.read,
        strict_map_key=False,
        max_array_len=most,
        max_map_len=most,
        max_str_len=skeleton_bytes,
        max_bin_len=skeleton_bytes,
        max_ext_len=skeleton_bytes,
    )
    if reader.position != len(data):
        raise CodecError.of_bytes(f"{len(data) - reader.position} bytes are left over after the last array")
    if containers > limits.max_depth:
        _check_depth(value, limits.max_depth)
    return value


def _count_items(value: Any, depth_left: int, items_left: int) -> int:
    """Number of items in all lists and dicts of a value to be written.

    Raises:
        CodecError: there are more than `items_left`, they are nested deeper than `depth_left`, or a key is not str, int
            or bytes.
    """
    items: Any
    if isinstance(value, dict):
        # Types are compared in C: the items of most lists and dicts need no closer look.
        if not _KEYS.issuperset(map(type, cast("dict[Any, Any]", value))):
            _check_keys(cast("dict[Any, Any]", value))
        items = cast("dict[Any, Any]", value).values()
    elif isinstance(value, _FOREIGN):
        raise CodecError.of_value(f"it holds a {type(value).__name__} of msgpack's own")
    elif isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
    else:
        return 0
    if depth_left == 0:
        raise CodecError.of_value("its lists and dicts are nested too deep, or hold themselves")
    count = len(items)
    if count > items_left:
        raise CodecError.of_value("its lists and dicts have too many items in all: use NumPy arrays")
    if not _are_leaves(items):
        for item in items:
            if isinstance(item, _LOOKED_INTO):
                count += _count_items(item, depth_left - 1, items_left - count)
    return count


def _are_leaves(items: Iterable[Any]) -> bool:
    """Whether none of the items needs a closer look. In C; a list of one type, as most long ones are, twice as fast."""
    kinds = list(map(type, items))
    if kinds and kinds.count(kinds[0]) == len(kinds):
        return kinds[0] in _LEAVES
    return _LEAVES.issuperset(kinds)


def _check_keys(value: dict[Any, Any]) -> None:
    for key in value:
        if not isinstance(key, (str, int, bytes)) or isinstance(key, bool):
            raise CodecError.of_value(f"it has a dict with a key of type {type(key).__name__}, not str, int or bytes")


def _check_depth(value: Any, depth_left: int) -> None:
    """Refuses a value just read whose lists and dicts are nested too deep."""
    if depth_left == 0:
        raise CodecError.of_bytes("their lists and dicts are nested too deep")
    items: Any = cast("dict[Any, Any]", value).values() if type(value) is dict else value
    if _LEAVES.issuperset(map(type, items)):
        return
    for item in items:
        if type(item) is list or type(item) is dict:
            _check_depth(item, depth_left - 1)


# By first byte of a msgpack token: its size if that is fixed; below, where the size of the others is.
_FIXED: Final = bytes(
    1 if b < 0x80 or b >= 0xE0 or b in {0xC0, 0xC2, 0xC3}  # small integers, nil, booleans
    else b - 0xA0 + 1 if 0xA0 <= b < 0xC0  # short strings
    else {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(b, 0)
    for b in range(256)
)  # fmt: skip
#: Strings and bytes with one byte of length, and the others: how many bytes of length follow.
_SHORT: Final = frozenset({0xD9, 0xC4})
_SIZED: Final = {0xDA: 2, 0xDB: 4, 0xC5: 2, 0xC6: 4}
#: Extension types: the size of their data, or how many bytes of length follow, negative.
_EXTENSIONS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16, 0xC7: -1, 0xC8: -2, 0xC9: -4}
#: Most descriptions of arrays have this form.
_SHORT_EXTENSION: Final = 0xC7
#: Lists and dicts: how many bytes of length follow.
_CONTAINERS: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
#: A run of numbers, matched at the speed of C: long lists are mostly numbers.
_NUMBER_RUN: Final = re.compile(
    # The most frequent stand first: doubles, then numbers of two bytes, which tokens are.
    rb"(?:\xcb.{8}|\xcd..|[\x00-\x7f\xe0-\xff\xc0\xc2\xc3]++|[\xcc\xd0].|\xd1..|[\xca\xce\xd2].{4}|[\xcf\xd3].{8})*+",
    re.DOTALL,
)
#: From this length on, a run of numbers is looked for in a list.
_LONG_LIST: Final = 16


def _check_lengths(data: bytes, position: int, end: int, limits: CodecLimits) -> int:
    """Walk over msgpack tokens without building anything. Returns the number of lists and dicts.

    msgpack reserves memory for a list's announced length before it has seen one item, for each level of nesting anew.
    The sum of all announced lengths bounds that, and the number of items that will be built.
    """
    announced = containers = 0
    while position < end:
        byte = data[position]
        size = _FIXED[byte]
        if size:
            position += size
            continue
        if byte in _SHORT:
            position += 2 + data[position + 1]
            continue
        if byte == _SHORT_EXTENSION and data[position + 2] in {arrays.ARRAY, arrays.SCALAR}:
            position += 3 + data[position + 1]
            continue
        if 0x80 <= byte < 0xA0:
            length, doubled, position = byte & 0x0F, byte < 0x90, position + 1
        elif byte in _CONTAINERS:
            width = _CONTAINERS[byte]
            length, doubled = int.from_bytes(data[position + 1 : position + 1 + width], "big"), byte >= 0xDE
            position += 1 + width
        else:
            position = _skip_sized(data, position)
            continue
        containers += 1
        announced += length
        # The values of a dict are its items; its keys take a byte each too.
        if announced > limits.max_elements:
            raise CodecError.of_bytes(f"their lists and dicts have more than {limits.max_elements} items in all")
        if length << doubled > end - position:
            raise CodecError.of_bytes("they announce more items than bytes follow")
        if length >= _LONG_LIST and not doubled:
            position = cast("re.Match[bytes]", _NUMBER_RUN.match(data, position, end)).end()
    if position != end:
        raise CodecError.of_bytes("they are cut off within an item")
    return containers


def _skip_sized(data: bytes, position: int) -> int:
    """The position after a string, bytes or an array's description."""
    byte = data[position]
    if byte in _SIZED:
        width = _SIZED[byte]
        return position + 1 + width + int.from_bytes(data[position + 1 : position + 1 + width], "big")
    if byte not in _EXTENSIONS:
        raise CodecError.of_bytes("they are not msgpack")
    length = _EXTENSIONS[byte]
    position += 1
    if length < 0:
        width = -length
        length = int.from_bytes(data[position : position + width], "big")
        position += width
    if data[position : position + 1] not in {b"\x01", b"\x02"}:
        raise CodecError.of_bytes("they hold an extension type that this version does not know")
    return position + 1 + length


class _Packer:
    """A msgpack packer that collects the contents of arrays, in the order in which it meets them."""

    __slots__ = ("contents", "pack")

    def __init__(self) -> None:
        self.contents: list[Any] = []
        # The list and not this object: a cycle would keep the packer's buffer, as large as the value, for a while.
        self.pack: Callable[[Any], bytes] = _make_packer(default=partial(_put_aside, self.contents)).pack


def _put_aside(contents: list[Any], value: Any) -> Any:
    if isinstance(value, int):
        raise CodecError.of_value("integers are from -2**63 to 2**64 - 1: send larger ones as str")
    described = arrays.describe(value)
    if described is None:
        kind = cast("type[object]", type(value))
        raise CodecError.of_value(
            f"values of type {kind.__module__}.{kind.__qualname__} are not stored, only None, bool, int, float, str, "
            "bytes, NumPy arrays, tensors of PyTorch and JAX, lists and dicts; numpy.asarray() makes arrays of others"
        )
    if not isinstance(described, tuple):
        return described
    code, description, array = described
    contents.append(array)
    return _make_extension(code, description)


def _lay_out(skeleton: bytes, contents: list[Any]) -> tuple[list[Any], int]:
    """The parts of a frame, with an empty one for the header, and the size of the body."""
    parts: list[Any] = [b"", skeleton]
    size = len(skeleton)
    for one in contents:
        padding = -size % arrays.ALIGNMENT
        parts += (_PADDING[padding], one)
        size += padding + one.nbytes
    return parts, size


class _Threads(threading.local):
    """The packer that each thread keeps for its next value."""

    packer: _Packer | None = None


_threads: Final = _Threads()


def _refused(value: Any, error: Exception) -> CodecError:
    """The error for a value that could not be packed, with the place of the first leaf that cannot be packed alone."""
    problem = error.fields["problem"] if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
    for place, leaf in _leaves(value, "value"):
        try:
            _Packer().pack(leaf)
        except Exception:  # noqa: BLE001 - as in encode
            return CodecError.of_value(problem, place)
    return CodecError.of_value(problem)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            yield f"a key of {place}", key
            yield from _leaves(item, f"{place}[{key!a}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _leaves(item, f"{place}[{index}]")
    else:
        yield place, value
