"""The Interventions page; what its sentence promises is not built yet."""

from core import session

session.heading(
    "Interventions", "Edit, steer and ablate the sites of a trace: does the location matter?"
)
session.coming()
