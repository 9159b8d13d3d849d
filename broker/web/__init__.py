"""Serves pages that show runs in a browser, and a few buttons that change them.

Imports `clients`, `inspection` and what they import, and the HTTP server of `integrations`.
"""
