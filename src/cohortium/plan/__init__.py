"""Compute plans: the steps of a round as a pure function of members, round and state."""
