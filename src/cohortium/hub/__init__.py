"""The hub: registry, durable mailbox and API of a federation, in one process on one port."""
