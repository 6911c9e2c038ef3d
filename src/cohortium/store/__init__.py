"""Databases of the services: opening them, and bringing their tables up to date."""
