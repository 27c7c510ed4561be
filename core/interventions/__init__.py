"""Does the location matter? Edit, steer, ablate, and judge."""
