"""The Compare page; what its sentence promises is not built yet."""

from core import session

session.heading("Compare", "Two or more models side by side on the same tweets, each with its untrained twin.")
