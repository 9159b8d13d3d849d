"""The loader's batches, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def cycle_dataloader(dataloader: Any) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield from dataloader
