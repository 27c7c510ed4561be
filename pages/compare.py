"""The Compare page; what its sentence promises is not built yet."""

from core import session

session.heading("Compare", "Models side by side on the same tweets, each with its untrained twin.")
session.coming()
