"""Tidy frames to Altair charts."""
