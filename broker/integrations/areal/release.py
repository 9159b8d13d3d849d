"""Which release of AReaL there is, and whether its places are known."""

from __future__ import annotations

import importlib
import importlib.metadata
import tomllib
from pathlib import Path

from broker.errors import BadArgument

#: Releases of AReaL whose places are known.
SUPPORTED = ("1.0", "2.0")


def known_release() -> str:
    """The release of AReaL that Python finds.

    Raises:
        BadArgument: there is none, or it is not one of `SUPPORTED`.
    """
    version = areal_version()
    if ".".join(version.split(".")[:2]) not in SUPPORTED:
        raise BadArgument(
            argument="areal", given=f"release {version}", expected=" or ".join(f"{known}.x" for known in SUPPORTED)
        )
    return version


def areal_version() -> str:
    """The release of AReaL that Python finds, a checkout's too.

    Raises:
        BadArgument: there is none.
    """
    try:
        return importlib.metadata.version("areal")
    except importlib.metadata.PackageNotFoundError:
        try:
            package = importlib.import_module("areal")
        except ModuleNotFoundError as error:
            if error.name != "areal":
                raise
            raise BadArgument(problem="AReaL is not installed: there is no module areal") from None
    try:
        project = Path(next(iter(package.__path__))).parent / "pyproject.toml"
        return str(tomllib.loads(project.read_text("utf-8"))["project"]["version"])
    except (OSError, LookupError, ValueError):
        return "unknown"
