"""Aggregation rules, one per file, and the server optimisers. Pure: arrays in, arrays out."""
