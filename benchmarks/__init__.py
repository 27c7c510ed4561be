"""How fast is SentiTrace, and how much memory does it take? `make bench` measures and writes."""
