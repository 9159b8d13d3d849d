"""Shared by the gateways: listening, authentication, and limits on the size and time of requests."""
