"""The benchmarks: `python -m benchmarks.w1` runs one and prints one JSON line."""
