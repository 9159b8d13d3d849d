"""Warns where pip has installed another project's package `broker` into the same folder.

Each of the two replaces files of the other.

PyPI has such a project. pip installs both without a word, and the one that came last has `broker/__init__.py`.
"""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

_METADATA = (".dist-info", ".egg-info")


@functools.cache  # once in a process
def warn_of_other_project(package: Path = Path(__file__).parent) -> None:
    """Warns if the folder that holds this package also has the metadata of a distribution named `broker`.

    Args:
        package: the folder of this package.
    """
    try:
        names = os.listdir(package.parent)  # noqa: PTH208 - names alone, and the import of every client waits for it
    except OSError:  # within a zip file
        return
    found = [name for name in names if name.startswith("broker-") and name.endswith(_METADATA)]
    if found:
        other = found[0].rpartition(".")[0].replace("-", " ")
        warnings.warn(
            f"{other}, another project, is installed in {package.parent}, where rollout-broker is. Both have a package "
            "and a command `broker`, and have replaced files of each other. Uninstall both, then install "
            "rollout-broker again.",
            stacklevel=3,
        )
