"""Which metrics and labels a PromQL expression asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SELECTOR = re.compile(r"\b(broker_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def selectors(expression: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Each metric of an expression, without its prefix, with the values that it asks for by label; no variables."""
    for name, labels in _SELECTOR.findall(expression):
        asked = {label: values.split("|") for label, _, values in _LABEL.findall(labels)}
        yield (
            name.removeprefix("broker_"),
            {label: values for label, values in asked.items() if not values[0].startswith("$")},
        )
