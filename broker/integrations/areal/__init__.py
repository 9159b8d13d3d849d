"""AReaL's rollouts, counted in Redis by all processes of a run together.

`StalenessManager` stands in for AReaL's class of that name; see docs/integrations/areal.md.
"""

from broker.integrations.areal.staleness import RolloutStat, StalenessManager, VersionProvider

__all__ = ["RolloutStat", "StalenessManager", "VersionProvider"]
