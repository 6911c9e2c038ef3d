"""The hospital's node: dials out only, needs no root, no container and no inbound port."""
