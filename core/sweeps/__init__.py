"""Many tweets: sweeps, averages and comparisons."""
