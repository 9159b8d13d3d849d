"""The values that users give and get, and how they are checked and stored: config, tasks, rollouts, the codec.

Imports only `errors`.
"""
