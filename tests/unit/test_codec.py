from __future__ import annotations

import datetime as dt
import enum
import gc
import random
import struct
import sys
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from broker.errors import CodecError
from broker.values import compression
from broker.values.codec import CodecLimits, decode, encode
from tests.threads import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEADER = struct.Struct("<BBHIQ")
pack = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
extension = cast("Callable[[int, bytes], Any]", msgpack.ExtType)
timestamp = cast("Callable[[int], Any]", msgpack.Timestamp)

numbers = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | numbers | st.binary(), inner),
    max_leaves=20,
)
dtypes = st.sampled_from(
    ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "m8[s]", "M8[ns]"]
).flatmap(lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder(">")]))
some_arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def frame(skeleton: bytes, contents: bytes = b"") -> bytes:
    """A stored object with a true header, whatever is in it."""
    body = skeleton + (b"\0" * (-len(skeleton) % 16) + contents if contents else b"")
    return HEADER.pack(0xC1, 1, 0, len(skeleton), len(body)) + body


def description(dtype: str, *shape: int, code: int = 1) -> Any:
    return extension(code, bytes([len(dtype)]) + dtype.encode() + struct.pack(f"<{len(shape)}Q", *shape))


def a_rollout() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    return {
        "prompt": rng.integers(0, 150_000, 512, dtype=np.int32),
        "tokens": rng.integers(0, 150_000, 4096, dtype=np.int32),
        "logprobs": rng.normal(size=4096).astype(np.float32),
        "mask": rng.integers(0, 2, 4608).astype(bool),
        "versions": np.full(4096, 7, np.int32),
        "reward": 0.5,
        "meta": {"finish": "stop", "turns": [1, 2, 3]},
    }


def same(one: Any, other: Any) -> bool:
    if type(one) is dict:
        mine = cast("dict[Any, Any]", one)
        return list(mine) == list(other) and all(same(mine[key], other[key]) for key in mine)
    if type(one) is np.ndarray:
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other and type(one) is type(other)


# Plain bytes


@given(st.binary() | st.binary().map(lambda tail: b"\xc1" + tail))
def test_plain_bytes_come_back_as_they_were(data: bytes) -> None:
    assert decode(encode(data)) == data


def test_plain_bytes_are_not_copied_on_either_way() -> None:
    data = bytes(range(1, 256)) * 10
    assert encode(data) is data
    assert decode(data) is data


def test_plain_bytes_of_any_kind_become_bytes() -> None:
    grid: Any = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert encode(bytearray(b"abc")) == encode(memoryview(b"abc")) == b"abc"
    assert encode(memoryview(grid)) == grid.tobytes()


# Objects


@given(values)
def test_values_come_back(value: Any) -> None:
    assert decode(encode(value)) == value


def test_tuples_and_special_containers_come_back_as_lists_and_dicts() -> None:
    class Point(NamedTuple):
        x: int
        y: int

    class Level(enum.IntEnum):
        LOW = 1

    value: Any = {
        "t": (1, (2,)),
        "p": Point(1, 2),
        "o": OrderedDict[str, int](a=1),
        "d": defaultdict(int, a=1),
        "e": Level.LOW,
    }
    back = decode(encode(value))
    assert back == {"t": [1, [2]], "p": [1, 2], "o": {"a": 1}, "d": {"a": 1}, "e": 1}
    assert type(back["o"]) is type(back["d"]) is dict


def test_numpy_scalars_come_back_as_numbers_of_python() -> None:
    value = [np.float32(0.1), np.float64(0.1), np.float16(2), np.int64(-3), np.uint8(3), np.bool_(True)]
    back = decode(encode(value))
    assert back == [float(np.float32(0.1)), 0.1, 2.0, -3, 3, True]
    assert [type(item) for item in back] == [float, float, float, int, int, bool]


@pytest.mark.parametrize("scalar", [np.complex64(1 + 2j), np.datetime64("2026-01-02"), np.timedelta64(3, "s")])
def test_other_numpy_scalars_come_back_as_they_are(scalar: Any) -> None:
    back = decode(encode([scalar, scalar]))
    assert back == [scalar, scalar]
    assert type(back[0]) is type(scalar)
    assert back[0].dtype == scalar.dtype


# Arrays


@given(some_arrays, st.sampled_from([None, 0]))
def test_arrays_come_back_with_type_shape_and_contents(array: Any, compress_above: int | None) -> None:
    back = decode(encode({"a": array, "b": [array]}, compress_above=compress_above))
    for one in (back["a"], back["b"][0]):
        assert one.dtype == array.dtype.newbyteorder("<")
        assert one.shape == array.shape
        assert one.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::-3],
        np.broadcast_to(np.arange(3), (4, 3)),
        np.array(3.5),
        np.zeros((3, 0, 2), np.float16),
        np.array(["2026-01-02", "NaT"], "M8[D]"),
    ],
)
def test_arrays_of_any_layout_come_back(array: Any) -> None:
    assert same(np.ascontiguousarray(array).reshape(array.shape), decode(encode(array)))


def test_a_memory_mapped_array_is_an_array(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.int32, "w+", shape=(4,))
    mapped[:] = range(4)
    back = decode(encode(mapped))
    assert type(back) is np.ndarray
    assert back.tolist() == [0, 1, 2, 3]
    del mapped


@pytest.mark.parametrize("compress_above", [None, 0])
def test_decoded_arrays_are_aligned_and_read_only(compress_above: int | None) -> None:
    for array in decode(
        encode([np.zeros(n, t) for n in (0, 1, 3, 5) for t in ("c16", "f4", "?")], compress_above=compress_above)
    ):
        assert array.flags.aligned
        assert array.ctypes.data % 16 == 0 or array.size == 0
        assert not array.flags.writeable


def test_decoded_arrays_are_views_of_what_was_received() -> None:
    data = encode(a_rollout(), compress_above=None)
    received = np.frombuffer(data, np.uint8)
    back = decode(data)
    assert all(np.shares_memory(received, back[name]) for name in ("prompt", "tokens", "logprobs", "mask", "versions"))


# What cannot be stored


def cyclic() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def doubling() -> Any:
    """2^60 items in a few hundred bytes."""
    value: list[Any] = [0]
    for _ in range(60):
        value = [value, value]
    return value


class Tensor:
    """Stands for the types of other packages."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {2, 3}]}, "value['a'][1]: values of type builtins.set"),
        ({"a": {"b": Tensor()}}, "value['a']['b']: values of type"),
        ({"when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}, "value['when']"),
        ([1, 2**64], "value[1]: integers are from"),
        ([-(2**63) - 1], "value[0]: integers are from"),
        (["a", "\ud800"], "value[1]: UnicodeEncodeError"),
        ({"\ud800": 1}, "a key of value"),
        ([memoryview(b"abcdef")[::2]], "value[0]"),
        ({(1, 2): 3}, "key of type tuple"),
        ({True: 3}, "key of type bool"),
        ({None: 3}, "key of type NoneType"),
        ([{1.5: 3}], "key of type float"),
        ({np.int64(3): 3}, "key of type int64"),
        ([np.array([None])], "value[0]: arrays of dtype object"),
        ([np.array(["a"])], "arrays of dtype <U1"),
        ([np.zeros(2, "i4,f4")], "arrays of dtype"),
        ([np.zeros(2, np.longdouble)], "arrays of dtype"),
        ([np.longdouble(2)], "arrays of dtype"),
        ([np.ma.masked_array([1, 2], [True, False])], "MaskedArray"),
        (extension(1, b"x"), "ExtType"),
        ([extension(1, b"x")], "ExtType"),
        ([timestamp(1)], "Timestamp"),
        (cyclic(), "nested too deep, or hold themselves"),
        (doubling(), "too many items"),
        ([0] * 1_000_001, "too many items"),
        ([[0] * 600_000, [0] * 600_000], "too many items"),
        (Tensor(), "values of type"),
        (3 + 4j, "values of type builtins.complex"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(CodecError) as caught:
        encode(value)
    assert words in str(caught.value)
    assert caught.value.fields["action"] == "encode"


def test_a_refused_value_leaves_no_trace_in_the_next_one() -> None:
    with pytest.raises(CodecError):
        encode({"a": np.zeros(3), "b": [np.ones(2), object()]})
    assert same({"x": np.arange(3)}, decode(encode({"x": np.arange(3)})))


def test_a_value_that_is_encoded_while_another_one_is_does_not_disturb_it() -> None:
    class Curious(dict[str, Any]):
        def items(self) -> Any:
            encode({"inner": np.ones(3)})
            return super().items()

    assert same({"a": np.arange(3)}, decode(encode({"c": Curious(a=np.arange(3))}))["c"])


def test_threads_do_not_disturb_each_other() -> None:
    failures: list[int] = []

    def work(number: int) -> None:
        for n in range(100):
            value = {"a": np.full(20_000, number * 1000 + n), "b": [number] * 50}
            if not same(value, decode(encode(value))):
                failures.append(number)

    in_threads(*(partial(work, number) for number in range(4)))
    assert not failures


def test_nesting_is_allowed_to_the_same_depth_on_both_sides() -> None:
    limits = CodecLimits(max_depth=3)
    deep = [[[1]]]
    assert decode(encode(deep, limits=limits), limits) == deep
    with pytest.raises(CodecError, match="nested too deep"):
        encode([deep], limits=limits)
    with pytest.raises(CodecError, match="nested too deep"):
        decode(encode([{"a": deep}]), limits)
    wide = [[1]] * 100
    assert decode(encode(wide, limits=limits), limits) == wide


@given(values)
def test_what_may_be_written_under_a_limit_may_be_read_under_it(value: Any) -> None:
    limits = CodecLimits(max_elements=6, max_depth=3)
    if isinstance(value, bytes):
        return
    try:
        data = encode(value, limits=limits)
    except CodecError:
        with pytest.raises(CodecError):
            decode(encode(value), limits)
    else:
        assert decode(data, limits) == value


def test_too_many_bytes_are_refused_on_both_sides() -> None:
    limits = CodecLimits(max_bytes=1000)
    with pytest.raises(CodecError, match="1000 are allowed"):
        encode(np.zeros(1000), limits=limits)
    for compress_above in (None, 0):
        with pytest.raises(CodecError, match="1000 are allowed"):
            decode(encode(np.zeros(1000), compress_above=compress_above), limits)


# Compression


def test_large_values_that_gain_are_compressed() -> None:
    value = {"tokens": np.arange(100_000, dtype=np.int64) % 1000}
    data = encode(value)
    assert len(data) < 200_000
    assert same(value, decode(data))


def test_values_that_do_not_gain_are_left_alone() -> None:
    noise = np.random.default_rng(1).integers(0, 256, 3_000_000, dtype=np.uint8)
    for size in (100_000, 3_000_000):
        assert encode(noise[:size]) == encode(noise[:size], compress_above=None)


def test_small_values_are_not_compressed_unless_asked() -> None:
    value = "x" * 10_000
    assert encode(value) == encode(value, compress_above=None)
    assert len(encode(value, compress_above=100)) < 200
    assert decode(encode(value, compress_above=100)) == value


@pytest.fixture
def without_zstandard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    compression.find_zstandard.cache_clear()
    yield
    compression.find_zstandard.cache_clear()


@pytest.mark.usefixtures("without_zstandard")
def test_without_zstandard_nothing_is_compressed() -> None:
    value = "x" * 1_000_000
    assert len(encode(value)) > 1_000_000
    assert decode(encode(value)) == value


def test_without_zstandard_a_compressed_value_says_what_to_install(request: pytest.FixtureRequest) -> None:
    data = encode("x" * 1_000_000)
    request.getfixturevalue("without_zstandard")
    with pytest.raises(CodecError, match=r"pip install 'rollout-broker\[zstd\]'"):
        decode(data)


# Hostile and damaged bytes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xc1", "header is cut off"),
        (b"\xc1\x01", "header is cut off"),
        (b"\xc1\x07" + b"\0" * 30, "kind that this version does not know"),
        (HEADER.pack(0xC1, 1, 0, 0, 0), "these bytes"),
        (HEADER.pack(0xC1, 1, 9, 1, 1) + b"\x01", "bytes follow the header"),
        (HEADER.pack(0xC1, 1, 0, 2, 1) + b"\x01", "bytes follow the header"),
        (HEADER.pack(0xC1, 1, 0, 1, 2) + b"\x01", "bytes follow the header"),
        (HEADER.pack(0xC1, 1, 0, 1, 2**63) + b"\x01", "are allowed"),
        (frame(b"\x01\x01"), "ExtraData"),
        (frame(b"\xc1"), "not msgpack"),
        (frame(b"\xdd\xff\xff\xff\xff"), "more than"),
        (frame(b"\xdd\x00\x00\x01\x00\x00"), "more items than bytes"),
        (frame(b"\x82\x01\x01\x02"), "more items than bytes"),
        (frame(b"\xc6\xff\xff\xff\xff"), "cut off"),
        (frame(b"\xd9"), "these bytes"),
        (frame(b"\xa2\xff\xff"), "UnicodeDecodeError"),
        (frame(pack({(1,): 2})), "these bytes"),
        (frame(pack(timestamp(1))), "extension type"),
        (frame(pack(extension(5, b"abc"))), "extension type"),
        (frame(pack(extension(1, b""))), "these bytes"),
        (frame(pack(extension(1, b"\xff<i4"))), "number of dimensions"),
        (frame(pack(description("<i4", 1000)), b"\0" * 3999), "end before it does"),
        (frame(pack(description("<i4", 1000)), b"\0" * 4001), "1 bytes are left over"),
        (frame(pack(description("<i4", 2**62, 2**62)), b"\0" * 16), "end before it does"),
        (frame(pack(description("<i4", 0, 2**63))), "these bytes"),
        (frame(pack(description("<i4", *[1] * 40)), b"\0" * 4), "number of dimensions"),
        (frame(pack(description("<c16", 1, code=2)), b"\0" * 16), "number of dimensions"),
        (frame(pack(description("|O", 1)), b"\0" * 8), "not allowed"),
        (frame(pack(description("i4,i4", 1)), b"\0" * 8), "not allowed"),
        (frame(pack(description("<U4", 1)), b"\xff" * 16), "not allowed"),
        (frame(pack(description("|V4", 1)), b"\xff" * 4), "not allowed"),
        (frame(pack(description("<M8[0s]", 1)), b"\0" * 8), "not allowed"),
        (frame(pack(description("|b1", 3)), b"\0\1\2"), "other values than 0 and 1"),
    ],
)
def test_damaged_bytes_are_refused_and_told_apart(data: bytes, words: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(data)
    assert words in str(caught.value)


def as_compressed(body: bytes, size: int, **options: Any) -> bytes:
    return HEADER.pack(0xC1, 2, 0, len(body), size) + zstandard.ZstdCompressor(**options).compress(body)


def test_damaged_compression_is_refused() -> None:
    body = pack("x" * 5000)
    assert decode(as_compressed(body, len(body))) == "x" * 5000
    for wrong in (
        as_compressed(body, len(body) - 1),
        as_compressed(body, len(body), write_content_size=False),
        as_compressed(body, len(body)) + b"more",
        as_compressed(body, len(body)) * 2,
        as_compressed(body, len(body))[:-1],
        as_compressed(body, len(body))[:16],
    ):
        with pytest.raises(CodecError):
            decode(wrong)


def test_a_compression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = as_compressed(b"\0" * 50_000_000, 50_000_000)
    assert len(bomb) < 10_000
    lying = HEADER.pack(0xC1, 2, 0, 10, 10) + bomb[HEADER.size :]
    tracemalloc.start()
    try:
        for data in (bomb, lying):
            with pytest.raises(CodecError):
                decode(data, CodecLimits(max_bytes=10_000_000))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Each would take seconds and gigabytes if msgpack were let loose on it.
BOMBS = {
    "20 MB of empty lists": frame(b"\xdd" + struct.pack(">I", 20_000_000) + b"\x90" * 20_000_000),
    "lists of empty lists": frame(b"\xdc\x02\x00" + (b"\xdd" + struct.pack(">I", 40_000) + b"\x90" * 40_000) * 512),
    "empty dicts": frame(b"\xdd" + struct.pack(">I", 5_000_000) + b"\x80" * 5_000_000),
    "pairs": frame(b"\x92" * 5_000_000 + b"\x01" * 5_000_001),
    "each level announces as much as it may": frame((b"\xdd" + struct.pack(">I", 1_000_000)) * 500 + b"\x01" * 10**6),
    "deep": frame(b"\x91" * 900_000 + b"\x01"),
    "deep dicts": frame(b"\x81\x01" * 400_000 + b"\x01"),
    "as deep as msgpack goes": frame(b"\x91" * 500 + b"\x01"),
    "many arrays, too few contents": frame(
        b"\xdd" + struct.pack(">I", 200_000) + pack(description("<i4", 1)) * 200_000, b"\0" * 16
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bytes_that_would_grow_are_refused_in_bounded_time_and_memory(name: str) -> None:
    data = BOMBS[name]
    began = time.process_time()
    with pytest.raises(CodecError):
        decode(data)
    assert time.process_time() - began < 3.0
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(data, CodecLimits(max_elements=10_000))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_the_largest_allowed_number_of_items_is_read_in_bounded_time() -> None:
    data = frame(b"\xdd" + struct.pack(">I", 1_000_000) + b"\x90" * 1_000_000)
    began = time.process_time()
    with pytest.raises(CodecError, match="nested too deep"):
        decode(data, CodecLimits(max_depth=1))
    assert len(decode(data)) == 1_000_000
    assert time.process_time() - began < 10.0


def decodes_or_is_refused(data: bytes) -> None:
    try:
        decode(data, CodecLimits(max_bytes=1_000_000, max_elements=10_000))
    except CodecError as error:
        str(error).encode()  # the sentence can be printed


@pytest.mark.parametrize("compress_above", [None, 0])
def test_every_truncation_is_refused(compress_above: int | None) -> None:
    value = {"a": np.arange(20, dtype=np.int16), "b": ["x" * 40, None, 1.5], "c": np.ones(3, bool)}
    data = encode(value, compress_above=compress_above)
    for end in range(1, len(data)):
        with pytest.raises(CodecError):
            decode(data[:end])


@pytest.mark.parametrize("compress_above", [None, 0])
def test_mutated_bytes_decode_or_are_refused(compress_above: int | None) -> None:
    rng = random.Random(3)
    small = {
        "a": np.arange(9, dtype=np.int16),
        "b": ["x" * 40, None, 1.5, {"k": b"v"}],
        "c": np.ones(3, bool),
        "d": 2**40,
    }
    samples = [encode(value, compress_above=compress_above) for value in (small, [np.complex64(1), [[[1]]], "é" * 300])]
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        for _ in range(200):
            data = bytearray(rng.choice(samples))
            for _ in range(rng.randint(1, 4)):
                position = rng.randrange(2, len(data))
                match rng.randrange(3):
                    case 0:
                        data[position] = rng.randrange(256)
                    case 1:
                        data[position] ^= 1 << rng.randrange(8)
                    case _:
                        data[position : position + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            decodes_or_is_refused(bytes(data))
            # A header that is true again lets the damage reach what lies behind it.
            if compress_above is None:
                size = len(data) - HEADER.size
                skeleton = min(size, struct.unpack_from("<I", data.ljust(8, b"\0"), 4)[0])
                decodes_or_is_refused(HEADER.pack(0xC1, 1, 0, skeleton, max(size, 0)) + bytes(data[HEADER.size :]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_any_msgpack_in_a_true_header_decodes_or_is_refused(skeleton: bytes, contents: bytes) -> None:
    decodes_or_is_refused(frame(skeleton, contents))
    decodes_or_is_refused(b"\xc1\x02" + skeleton)


foreign = st.recursive(
    leaves | st.builds(extension, st.integers(0, 127), st.binary(max_size=30)) | st.just(timestamp(5)),
    lambda inner: st.lists(inner) | st.dictionaries(leaves, inner),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(foreign, st.binary(max_size=64))
def test_any_msgpack_of_others_decodes_or_is_refused(value: Any, contents: bytes) -> None:
    decodes_or_is_refused(frame(pack(value), contents))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        ["<i4", "|b1", "<f2", "<c16", "<M8[ns]", "<m8", "|O", "<U3", ">i4", "<f16", "", "i4,i4", "<M8[00s]"]
    ),
    st.lists(st.integers(0, 5) | st.integers(0, 2**64 - 1), max_size=5),
    st.sampled_from([1, 2]),
    st.binary(max_size=80),
)
def test_any_description_of_an_array_decodes_or_is_refused(
    dtype: str, shape: list[int], code: int, contents: bytes
) -> None:
    decodes_or_is_refused(frame(pack(description(dtype, *shape, code=code)), contents))


def test_an_error_of_the_codec_is_short_even_for_large_values() -> None:
    with pytest.raises(CodecError) as caught:
        encode({"x" * 10_000: [object()]})
    assert len(str(caught.value)) < 1000


def test_a_rollout_survives() -> None:
    value = a_rollout()
    for compress_above in (None, 0):
        assert same(value, decode(encode(value, compress_above=compress_above)))


@pytest.mark.parametrize("holds", [None, object()], ids=["encoded", "refused"])
def test_nothing_of_a_large_value_stays_in_memory(holds: object) -> None:
    """Not even until the garbage collector runs: a gateway that took rollouts of 50 MB grew by 100 MB with each."""
    text = "x" * 8_000_000
    array = np.zeros(1_000_000)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(3):
            with suppress(CodecError):
                encode([text, array * 2, holds], compress_above=None)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert left < 1_000_000
