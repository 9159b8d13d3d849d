"""The REST API of agent-lightning 1.x over the broker, so that its trainer and its controllers run without loss.

`broker gateway RUN --protocol agent-lightning-1` serves it. Needs the extra `gateway`. The package `agentlightning`
itself is not needed on this side, and never imported.
"""
