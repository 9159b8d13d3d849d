"""Which release of TRL there is, and what the adapter uses of it."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from broker.errors import BadArgument

#: Releases of TRL whose protocol of rollout workers is known.
SUPPORTED = ("1.16",)


def sample_type() -> Any:
    """TRL's class of one scored sample, `RolloutSample`.

    Raises:
        BadArgument: TRL is not installed, or is a release whose protocol is not known.
    """
    try:
        version = importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        raise BadArgument(problem="TRL is not installed: pip install trl") from None
    if ".".join(version.split(".")[:2]) not in SUPPORTED:
        known = " or ".join(f"{release}.x" for release in SUPPORTED)
        raise BadArgument(argument="trl", given=f"release {version}", expected=known)
    return importlib.import_module("trl.experimental.async_grpo.async_rollout_worker").RolloutSample
