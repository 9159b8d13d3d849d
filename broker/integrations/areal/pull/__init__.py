"""Rollouts that workers pull from the run, in the place of AReaL's calls to its workers; docs/integrations/areal.md.

The controller enqueues the prompts of its data loader, and takes whole batches. Workers on any host claim prompts, run
AReaL's workflow on their engine, and submit the trajectory.
"""
