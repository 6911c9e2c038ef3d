"""Carries a party across the network: its journal in a database, its mail, its work."""
