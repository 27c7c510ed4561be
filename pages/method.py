"""The Method page."""

from core import session

session.heading("Method", "x")
