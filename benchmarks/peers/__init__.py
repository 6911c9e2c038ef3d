"""The workloads in other systems, each used as its own documentation shows.

They run with a python that has the peers, named by COHORTIUM_PEERS_PYTHON; see ../README.md.
"""
