"""The payload of an evaluation: a task that carries the policy of training that it judges.

Such a payload is stored as C1 03 00 00, u32 n, n bytes that `broker.values.codec` wrote of the list [version, epoch,
blob], then the bytes of the payload itself. A release that does not know this form fails the attempt for good.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final, cast

from broker.errors import CodecError
from broker.values.arguments import bytes_of, check_type
from broker.values.codec import decode, encode
from broker.values.policy import Policy

_HEAD: Final = struct.Struct("<4sI")
_MARK: Final = b"\xc1\x03\x00\x00"


@dataclass(frozen=True, slots=True)
class Judged:
    """A payload together with the policy that its rollouts are to be generated with, for evaluation.

    The attempts of the task have this policy, its version and this blob, whatever the version of the evaluation's own
    run is.

    Args:
        payload: for the worker, as of any task.
        policy: the policy of training that is judged, such as `trainer.policy`.
        blob: where its weights are, such as what the trainer gave to `advance`; None: the worker knows.
    """

    payload: Any = field(repr=False)
    policy: Policy
    blob: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_type("policy", self.policy, Policy, "the broker.Policy that is judged")
        if self.blob is not None:
            bytes_of("blob", self.blob)


def encode_payload(payload: Any) -> bytes:
    """A task's payload as bytes; raises CodecError as `encode` does."""
    if not isinstance(payload, Judged):
        return encode(payload)
    blob = None if payload.blob is None else bytes_of("blob", payload.blob)
    head = encode([payload.policy.version, payload.policy.epoch, blob], compress_above=None)
    return _HEAD.pack(_MARK, len(head)) + head + encode(payload.payload)


def decode_payload(raw: bytes) -> tuple[Any, Judged | None]:
    """A task's payload, and what it judges if it is one of an evaluation; raises CodecError as `decode` does."""
    if not raw.startswith(_MARK):
        return decode(raw), None
    try:
        _, size = _HEAD.unpack_from(raw)
        at = _HEAD.size + size
        version, epoch, blob = cast("list[Any]", decode(raw[_HEAD.size : at]))
        judged = Judged(None, Policy(version=version, epoch=epoch), blob)
    except CodecError:
        raise
    except Exception as error:  # noqa: BLE001 - any bytes may be there
        raise CodecError.of_bytes(f"the policy of an evaluation cannot be read: {error}") from None
    return decode(raw[at:]), judged
