"""Fetching a model, which one it is, its family and its parts."""
