"""The commands of `python -m core`, one module for each; `core.__main__` joins them."""
