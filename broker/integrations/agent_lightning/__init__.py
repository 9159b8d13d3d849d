"""Agent-lightning's HTTP protocol over the broker, so that its stock workers get work.

`broker gateway RUN` serves it for any run; `Server` is for trainers that use `agentlightning.AgentLightningServer` and
want to change nothing but the import:

    from broker.integrations.agent_lightning import Server as AgentLightningServer

Needs the extra `gateway`. The package `agentlightning` itself is not needed on this side, and never imported.
"""

from broker.integrations.agent_lightning.messages import ResourcesUpdate, Rollout, Task, Triplet
from broker.integrations.agent_lightning.server import Server

__all__ = ["ResourcesUpdate", "Rollout", "Server", "Task", "Triplet"]
