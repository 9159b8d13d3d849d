"""The places that `install` looks for in AReaL: a package of that name, of our own, put on the path by a test."""

from areal.infra.staleness_manager import StalenessManager

__all__ = ["StalenessManager"]
