"""Reproducible comparisons of speed and memory; `make bench` runs them, RESULTS.md has them."""

import core as core  # before torch: it decides how OpenMP's threads wait
