"""A person's file, built-in data and data of the hub as one tidy frame."""
