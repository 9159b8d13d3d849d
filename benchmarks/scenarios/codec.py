"""Encoding and decoding of one rollout: 512 + 4,096 tokens, log-probabilities, masks, versions."""

from __future__ import annotations

import json
import pickle
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import numpy as np

from benchmarks.cases import Case
from benchmarks.lab import Lab
from benchmarks.quantiles import median
from broker.values.codec import decode, encode

PROMPT, ANSWER = 512, 4096
Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


def cases(lab: Lab) -> list[Case]:
    """The broker's codec, the plain bytes of the arrays with and without a header, and other formats."""
    arrays = rollout()
    lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in arrays.items()}
    case = partial(partial, _measure, lab)
    return [
        Case("codec", "NumPy arrays", "ours", case(arrays, encode, decode), clean=False),
        Case("codec", "NumPy bytes with a header", "limit", case(arrays, header_encode, header_decode), clean=False),
        Case("codec", "memcpy", "limit", case(arrays, memcpy_encode, memcpy_decode), clean=False),
        Case("codec", "pickle of arrays", "pickle", case(arrays, pickle.dumps, pickle.loads), clean=False),
        Case("codec", "lists", "ours", case(lists, encode, decode), clean=False),
        Case("codec", "msgpack of lists", "msgpack", case(lists, msgpack.packb, msgpack.unpackb), clean=False),
        Case("codec", "JSON of lists", "json", case(lists, json_encode, json.loads), clean=False),
        Case("codec", "zstd, by us", "ours", case(arrays, partial(encode, compress_above=0), decode), clean=False),
    ]


def rollout() -> dict[str, Any]:
    """One rollout with values that look like a model's."""
    rng = np.random.default_rng(0)
    total = PROMPT + ANSWER
    return {
        "prompt": rng.integers(0, 150_000, PROMPT, dtype=np.int32),
        "tokens": (rng.zipf(1.3, ANSWER) % 150_000).astype(np.int32),
        "logprobs": -np.abs(rng.normal(size=ANSWER)).astype(np.float32),
        "mask": np.arange(total) >= PROMPT,
        "versions": np.full(ANSWER, 7, np.int32),
        "reward": 1.0,
    }


def raw_bytes(value: dict[str, Any]) -> int:
    """The bytes of the arrays alone."""
    return sum(each.nbytes for each in value.values() if isinstance(each, np.ndarray))


def header_encode(value: dict[str, Any]) -> bytes:
    """A JSON header and the arrays' bytes."""
    parts, told = list[bytes](), list[Any]()
    for name, each in value.items():
        if isinstance(each, np.ndarray):
            parts.append(each.tobytes())
            told.append((name, each.dtype.str, each.shape, each.nbytes))
        else:
            told.append((name, each))
    head = json.dumps(told).encode()
    return b"".join([struct.pack("<I", len(head)), head, *parts])


def header_decode(data: bytes) -> dict[str, Any]:
    """The arrays as views."""
    (size,) = struct.unpack_from("<I", data)
    at, value = 4 + size, dict[str, Any]()
    for told in json.loads(data[4:at]):
        if len(told) == 2:
            value[told[0]] = told[1]
            continue
        name, kind, shape, nbytes = told
        value[name] = np.frombuffer(data, kind, nbytes // np.dtype(kind).itemsize, at).reshape(shape)
        at += nbytes
    return value


def memcpy_encode(value: dict[str, Any]) -> bytes:
    """The bytes of the arrays, one after the other."""
    return b"".join([each for each in value.values() if isinstance(each, np.ndarray)])


def memcpy_decode(data: bytes) -> Any:
    """One copy of these bytes."""
    return bytearray(data)


def json_encode(value: Any) -> bytes:
    """JSON as bytes."""
    return json.dumps(value).encode()


def _measure(lab: Lab, value: dict[str, Any], encode_one: Encode, decode_one: Decode) -> dict[str, float]:
    data = encode_one(value)
    encode_us = _micros(lab, partial(encode_one, value))
    decode_us = _micros(lab, partial(decode_one, data))
    return {
        "encode_us": encode_us,
        "decode_us": decode_us,
        "both_us": encode_us + decode_us,
        "size_bytes": len(data),
        "size_to_raw_x": len(data) / raw_bytes(rollout()),
    }


def _micros(lab: Lab, work: Callable[[], object]) -> float:
    """The median of several loops, each long enough for the clock."""
    started = time.perf_counter()
    work()
    loops = max(3, min(3000, int(lab.size(60, 10) / 1000 / max(1e-7, time.perf_counter() - started))))
    times: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(loops):
            work()
        times.append((time.perf_counter() - started) / loops)
    return median(times) * 1e6
