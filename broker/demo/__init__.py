"""`broker demo`: asynchronous policy gradient on CartPole, to see the broker at work on a real training run.

A trainer process and worker processes share nothing but the server. A supervisor starts them, shows the run, kills
processes if asked to, and judges the run by its event log.
"""
