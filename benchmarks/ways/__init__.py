"""One module per way of tracing; each runs alone in a process of its own, see `benchmarks.trace`.

`job` is all that they share. It needs NumPy and torch only, because causal-tracer and
TransformerLens run in environments of their own.
"""
