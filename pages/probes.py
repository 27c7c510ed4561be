"""The Probes page; what its sentence promises is not built yet."""

from core import session

session.heading(
    "Probes", "Train a probe on labelled tweets, see how far it can be trusted, and keep it."
)
session.coming()
