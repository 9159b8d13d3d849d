"""Warns where pip has installed another project's package `broker` into the same folder.

Each of the two replaces files of the other.

PyPI has such a project. pip installs both without a word, and the one that came last has `broker/__init__.py`.
"""

from __future__ import annotations

import functools
import os
import warnings

_METADATA = (".dist-info", ".egg-info")


@functools.cache  # once in a process
def warn_of_other_project(package: str | os.PathLike[str] | None = None) -> None:
    """Warns if the folder that holds this package also has the metadata of a distribution named `broker`.

    Args:
        package: another folder than this package's, for tests.
    """
    # The import of every client waits for this, and pathlib takes longer to import than all else that it needs.
    folder = os.path.dirname(package or os.path.dirname(__file__))  # noqa: PTH120
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:  # within a zip file
        return
    found = [name for name in names if name.startswith("broker-") and name.endswith(_METADATA)]
    if found:
        other = found[0].rpartition(".")[0].replace("-", " ")
        warnings.warn(
            f"{other}, another project, is installed in {folder}, where rollout-broker is. Both have a package "
            "and a command `broker`, and have replaced files of each other. Uninstall both, then install "
            "rollout-broker again.",
            stacklevel=3,
        )
