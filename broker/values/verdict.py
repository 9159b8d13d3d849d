"""The verdicts: what a worker says of the rollout that its attempt made. Nothing else is called a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

#: `accept`: a result, which may be trained on. `reject`: no result, and a reason in words; the slot is not tried again.
#: A handler rejects by raising `Reject`, a loop over attempts with `Worker.reject`.
Verdict = Literal["accept", "reject"]

#: How `submit.lua` is sent a verdict; `lua/include/verdicts.lua` checks it.
LETTERS: Final[Mapping[Verdict, str]] = MappingProxyType({"accept": "a", "reject": "r"})
#: What `submit.lua` answers to a verdict that counts.
ANSWERS: Final[Mapping[Verdict, str]] = MappingProxyType({"accept": "accepted", "reject": "rejected"})
