"""Bytes between members: frames sealed end to end, blobs, signed requests. Knows no plan."""
