"""One tweet: its trace, its cells, and what may be said of them."""
