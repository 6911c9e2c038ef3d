"""The revisions of the node's tables."""
