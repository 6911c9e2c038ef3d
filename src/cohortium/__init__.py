"""Cohortium: federated learning for digital health. Hospitals train together, records stay put."""

__version__ = "0.1.0"
