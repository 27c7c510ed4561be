"""The Interventions page; what its sentence promises is not built yet."""

from core import session

session.heading("Interventions", "Edit, steer and ablate the sites that a trace found, to see whether the location matters.")
