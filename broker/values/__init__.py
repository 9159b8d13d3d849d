"""What users give and get, and how it is checked and stored: configuration, tasks, rollouts, the codec.

Imports only `errors`.
"""
