"""AReaL's rollouts, counted in Redis by all processes of a run together.

`install` puts `StalenessManager` in the place of AReaL's class of that name, or lets workers pull the rollouts; see
docs/integrations/areal.md.
"""

from broker.integrations.areal.installation import Installation, install
from broker.integrations.areal.pull.late import pull_rollouts
from broker.integrations.areal.staleness import RolloutStat, StalenessManager, VersionProvider

__all__ = ["Installation", "RolloutStat", "StalenessManager", "VersionProvider", "install", "pull_rollouts"]
