"""Charts and tables to files that can be made again, and back."""
