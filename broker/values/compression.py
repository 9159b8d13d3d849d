"""Compresses with zstd if that pays and zstandard is installed (the extra `zstd`)."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

from broker.errors import CodecError

if TYPE_CHECKING:
    import zstandard

#: Higher levels gain nothing on tokens, masks and log-probabilities.
_LEVEL: Final = 1
#: Compressed bytes are kept when they are fewer than this part of the original.
_WORTH_IT: Final = 0.9
#: Of larger data a few pieces are tried first: how many, and their size in bytes.
_TRIAL_PIECES: Final = 8
_TRIAL_PIECE_BYTES: Final = 8 * 1024


def compress(data: memoryview) -> bytes | None:
    """The data compressed, or None when that gains too little or zstandard is not installed."""
    zstd = find_zstandard()
    if zstd is None:
        return None
    compressor = _threads.compressor
    if compressor is None:
        compressor = _threads.compressor = zstd.ZstdCompressor(level=_LEVEL)
    stride = len(data) // _TRIAL_PIECES
    if stride > 4 * _TRIAL_PIECE_BYTES:
        pieces = b"".join(data[at : at + _TRIAL_PIECE_BYTES] for at in range(0, stride * _TRIAL_PIECES, stride))
        if len(compressor.compress(pieces)) > _WORTH_IT * len(pieces):
            return None
    compressed = compressor.compress(data)
    return compressed if len(compressed) < _WORTH_IT * len(data) else None


def decompress(data: memoryview, size: int) -> bytes:
    """The original of compressed data.

    Args:
        data: one whole zstd frame that says its original's size.
        size: that size in bytes; the caller has checked it.

    Raises:
        CodecError: the frame says another size, or zstandard is not installed. zstandard's own errors come through.
    """
    zstd = find_zstandard()
    if zstd is None:
        raise CodecError.of_bytes(
            "they are compressed with zstd, which is not installed here: pip install 'rollout-broker[zstd]'"
        )
    # zstandard reserves the announced size, even above the maximum that it is given.
    if zstd.get_frame_parameters(data).content_size != size:
        raise CodecError.of_bytes("their compressed part announces another size than their header")
    decompressor = _threads.decompressor
    if decompressor is None:
        decompressor = _threads.decompressor = zstd.ZstdDecompressor()
    return decompressor.decompress(data, max_output_size=size, allow_extra_data=False)


@functools.cache
def find_zstandard() -> Any:
    """The module, or None if the extra is not installed. It is looked for once, when first needed."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


class _Threads(threading.local):
    """The compressor and decompressor of a thread: they must not be shared, and are slow to make."""

    compressor: zstandard.ZstdCompressor | None = None
    decompressor: zstandard.ZstdDecompressor | None = None


_threads: Final = _Threads()
