"""The Average page; what its sentence promises is not built yet."""

from core import session

session.heading(
    "Average", "The trace of a whole data set: average effects, their intervals, and sweeps."
)
session.coming()
